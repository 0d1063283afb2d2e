//! The tree of a text, as compact JSON; what is refused; and how long the worst inputs take.

use std::time::{Duration, Instant};

use super::*;

fn json(node: &Node) -> String {
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => float_text(*value),
        Value::String(text) => format!("{text:?}"),
        Value::List(list) => format!("[{}]", list.iter().map(|node| json(node)).collect::<Vec<_>>().join(",")),
        Value::Map(entries) => {
            let entries: Vec<_> =
                entries.iter().map(|entry| format!("{:?}:{}", entry.key, json(&entry.value))).collect();
            format!("{{{}}}", entries.join(","))
        }
    }
}

fn check(text: &str, expected: &[&str]) {
    let documents = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
    assert_eq!(documents.iter().map(|node| json(node)).collect::<Vec<_>>(), expected, "{text}");
}

fn check_error(text: &str, line: usize, message: &str) {
    let error = parse(text.as_bytes()).unwrap_err();
    assert!(error.message.contains(message), "{text:?}: {error:?}");
    assert_eq!(error.position.line, line, "{text:?}: {error:?}");
}

#[test]
fn texts_become_trees() {
    check("", &[]);
    check("# nothing\n", &[]);
    check("---\n---\na: 1\n---\n", &["{\"a\":1}"]);
    check("a: yes\nb: 'yes'\nc: \"0644\"\nd: 0644\n", &["{\"a\":true,\"b\":\"yes\",\"c\":\"0644\",\"d\":420}"]);
    check("a:\nb: ~\n", &["{\"a\":null,\"b\":null}"]);
    check("a: |\n  one\n  two\nb: >-\n  one\n  two\n", &["{\"a\":\"one\\ntwo\\n\",\"b\":\"one two\"}"]);
    check("80: a\nyes: b\n1.5: c\n", &["{\"80\":\"a\",\"true\":\"b\",\"1.5\":\"c\"}"]);
    check("a: 1\n---\nb: 2\n...\n---\nc: 3\n", &["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]);
    check("\u{feff}a: 1\r\nb: 2\r\n", &["{\"a\":1,\"b\":2}"]);
    check("a: !!str 12\nb: !!int 12\nc: ! 12\nd: !!float 1\n", &["{\"a\":\"12\",\"b\":12,\"c\":\"12\",\"d\":1}"]);
}

#[test]
fn json_is_read_too() {
    check(
        "{\"a\": [1, 2.5, true, null, \"x\"], \"b\": {\"c\": \"\"}}",
        &["{\"a\":[1,2.5,true,null,\"x\"],\"b\":{\"c\":\"\"}}"],
    );
    check("{\n\t\"a\":\t\"\\/\\u00e4\\n\"\n}\n", &["{\"a\":\"/ä\\n\"}"]);
    check("{\"a\": \"\\ud83d\\ude00 \\\\ud83d\\\\ude00\"}", &["{\"a\":\"😀 \\\\ud83d\\\\ude00\"}"]);
}

#[test]
fn aliases_and_merges_are_put_in() {
    check("a: &x [1, 2]\nb: *x\n", &["{\"a\":[1,2],\"b\":[1,2]}"]);
    check("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}\n", &["{\"a\":{\"k\":1,\"l\":2},\"b\":{\"k\":3,\"l\":2}}"]);
    check(
        "a: &x {k: 1}\nb: &y {k: 2, m: 3}\nc: {<<: [*x, *y]}\n",
        &["{\"a\":{\"k\":1},\"b\":{\"k\":2,\"m\":3},\"c\":{\"k\":1,\"m\":3}}"],
    );
    check("a: {'<<': 1}\n", &["{\"a\":{\"<<\":1}}"]);
    check("a: &x 1\nb: &x 2\nc: *x\n", &["{\"a\":1,\"b\":2,\"c\":2}"]);
}

#[test]
fn every_node_knows_where_it_is() {
    let documents = parse(b"a:\n  b: [x,\n    y]\n  c:\nd: 1\n").unwrap();
    let at = |node: &Node| (node.position.line, node.position.column);
    let a = documents[0].get("a").unwrap();
    let (b, c) = (a.value.get("b").unwrap(), a.value.get("c").unwrap());
    assert_eq!((a.position.line, a.position.column), (1, 1));
    assert_eq!(at(&a.value), (2, 3));
    assert_eq!(at(&b.value), (2, 6));
    let Value::List(list) = &b.value.value else { panic!() };
    assert_eq!((at(&list[0]), at(&list[1])), ((2, 7), (3, 5)));
    assert_eq!(at(&c.value), (4, 3), "a value that is not there is at its key");
}

#[test]
fn what_cannot_be_read_is_an_error_with_its_line() {
    check_error("a: [1, 2\nb: }", 2, "invalid YAML");
    check_error("a: 1\n b: 2\n", 2, "invalid YAML");
    check_error("a: 1\nb: *nosuch\n", 2, "invalid YAML");
    check_error("a: \"x\n", 1, "invalid YAML");
    check_error("a:\n\tb: 1\n", 2, "invalid YAML");
    check_error("a: &x 1\n---\nb: *x\n", 3, "anchor");
    check_error("a: &x\n  b: *x\n", 2, "not complete");
    check_error("a: 1\n? [x]\n: 2\n", 2, "a key must be a scalar");
    check_error("a: 1\n~: 2\n", 2, "a key must not be null");
    check_error("a: 1\n<<: 2\n", 2, "map merge requires");
    check_error("a: !custom 1\n", 1, "!custom");
    check_error("a: !!int x\n", 1, "not supported");
    check_error("a: !!set {x}\n", 1, "not supported");
    let error = parse(b"a: 1\nb: x\xff\n").unwrap_err();
    assert_eq!((error.position, error.message.as_str()), (Position { line: 2, column: 5 }, "not UTF-8"));
}

fn laughs() -> String {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        text += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 9].join(", "));
    }
    text
}

#[test]
fn limits_hold_and_are_checked_at_once() {
    let start = Instant::now();
    check_error(&format!("# {}\n", "x".repeat(BYTES_MAX)), 1, "at most 4194304 are read");
    check_error(&("[".repeat(500) + &"]".repeat(500)), 1, "nested deeper than 64 levels");
    check_error(&"[".repeat(BYTES_MAX), 1, "nested deeper than 64 levels");
    check_error(&"{a: ".repeat(BYTES_MAX / 4), 1, "nested deeper than 64 levels");
    check_error(&"- ".repeat(BYTES_MAX / 2), 1, "nested deeper than 64 levels");
    check_error(&"---\na: b\n".repeat(1500), 2001, "more than 1000 documents");
    check_error(&laughs(), 5, "more than 10000 nodes through aliases");
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 5000].join(", "));
    check_error(&long, 2, "bytes through aliases");
    let deep = (1..40).fold("a0: &a0 [[x]]\n".to_owned(), |text, n| text + &format!("a{n}: &a{n} [[*a{}]]\n", n - 1));
    check_error(&deep, 32, "nested deeper than 64 levels");
    // Merges that are nested would copy the innermost map once for each level.
    let inner = (0..5000).map(|n| format!("k{n}: 1, ")).collect::<String>();
    check_error(&(0..4).fold(format!("{{{inner}}}"), |text, _| format!("{{<<: {text}}}")), 1, "through aliases");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    check_error(&format!("[{}]", "a,".repeat(NODES_MAX + 1)), 1, "more than 200000 nodes");
    check(&("[".repeat(64) + &"]".repeat(64)), &[&("[".repeat(64) + &"]".repeat(64))]);
}

#[test]
fn no_repetition_makes_the_parser_slow() {
    for unit in [
        "a: b\n",
        "a",
        "a\n",
        "a ",
        "[",
        "{",
        "{a:",
        "[a,",
        "- ",
        "- a\n",
        "? ",
        "? a\n",
        ": ",
        "&a ",
        "*a ",
        "!a ",
        "!<",
        "%",
        "%YAML 1.2\n",
        "'",
        "\"",
        "\\",
        "'a' ",
        "\"a\"\n",
        "|\n",
        ">\n",
        "a: |\n b\n",
        "#",
        "# a\n",
        "---\n",
        "...\n",
        "--- a\n",
        "\t",
        " ",
        "\n",
        "\r",
        ",",
        "]",
        "}",
        "[]",
        "{},",
        "[{",
        "a:\n",
        "a: [\n",
        "a: {b\n",
        "a: &b c\n",
        "<<: a\n",
        "\u{85}",
        "é",
        "- - - a\n",
        "a: 'b\n",
        "\"\\",
        "-",
        "--",
        "?",
        "[?",
        "[? a",
        "{?",
        "a: - b\n",
        "\u{feff}",
        "@",
        "`",
        "a: b: c\n",
        " a",
        "\n a",
        "k: \"a\\\n\" ",
        "[a: b, ",
        "[a]: b\n",
        "{a}: b\n",
        "!!str a\n",
        "- !!str a\n",
        "%TAG ! tag:x,2000:\n",
        "!<tag:x>",
        "[\n",
        "{\n",
        " [\n",
        "a: >\n  b\n\n",
    ] {
        for prefix in ["", "a: ", "[", "{", "- ", "\"", "'", "a: |\n  ", "? ", "{a: [", "- &a b\n- "] {
            let text = format!("{prefix}{}", unit.repeat(8_000 / unit.len()));
            let start = Instant::now();
            let _ = parse(text.as_bytes());
            assert!(start.elapsed() < Duration::from_secs(2), "{prefix:?} {unit:?}: {:?}", start.elapsed());
        }
    }
}

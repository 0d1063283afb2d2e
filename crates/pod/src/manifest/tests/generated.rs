//! Manifests made from the table itself, with values of the right type and wild sizes: whatever passes the checks
//! must fit the types, and survive being written and read again.

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::super::*;
use crate::schema::{Field, Kind, Support, Table};

/// xorshift64*: a stream of choices from one seed, which proptest can shrink.
struct Choices(u64);

impl Choices {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn of<'a, T: ?Sized>(&mut self, words: &[&'a T]) -> &'a T {
        words[self.below(words.len())]
    }
}

const TEXTS: [&str; 14] = [
    "a",
    "v",
    "c",
    "",
    "a b",
    "/x",
    "../x",
    "80",
    "http",
    "limits.cpu",
    "metadata.name",
    "Memory",
    "10.0.0.1",
    "NET_ADMIN",
];
const NUMBERS: [i64; 12] = [0, 1, 2, 30, 80, 420, 65535, 65536, -1, 2_147_483_647, 2_147_483_648, i64::MAX];
const QUANTITIES: [&str; 6] = ["1", "500m", "1Gi", "0", "-1", "1e30"];

fn value(kind: &Kind, choices: &mut Choices) -> Json {
    match kind {
        Kind::Text => choices.of(&TEXTS).into(),
        Kind::Bool => (choices.below(2) == 0).into(),
        // Mostly small, so that some manifests are good.
        Kind::Int32 | Kind::Int64 if choices.below(4) > 0 => (choices.below(3) + 1).into(),
        Kind::Int32 | Kind::Int64 => NUMBERS[choices.below(NUMBERS.len())].into(),
        Kind::IntOrText => match choices.below(2) {
            0 => choices.of(&TEXTS).into(),
            _ => NUMBERS[choices.below(NUMBERS.len())].into(),
        },
        Kind::Quantity => choices.of(&QUANTITIES).into(),
        Kind::Enum(words) => choices.of(words).into(),
        Kind::Object(table) => object(table, choices),
        Kind::List(kind) => (0..choices.below(3)).map(|_| value(kind, choices)).collect(),
        Kind::Map(kind) => (0..choices.below(3))
            .map(|_| (choices.of(&["cpu", "memory", "k"]).to_owned(), value(kind, choices)))
            .collect(),
        Kind::Any => json!({"any": [1, "x"]}),
    }
}

fn object(table: &Table, choices: &mut Choices) -> Json {
    let mut fields = Map::new();
    for Field { name, kind, support, .. } in table.fields {
        let is_likely = matches!(*name, "name" | "image" | "mountPath" | "containerPort" | "port" | "command" | "key");
        if matches!(support, Support::Refused(_)) || (!is_likely && choices.below(5) > 0) {
            continue;
        }
        fields.insert((*name).to_owned(), value(kind, choices));
    }
    fields.into()
}

fn manifest(seed: u64) -> String {
    let mut choices = Choices(seed | 1);
    let mut pod = object(&schema::POD, &mut choices);
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"] = json!({"name": "p"});
    let container = schema::POD.field("spec").and_then(|field| match field.kind {
        Kind::Object(spec) => spec.field("containers"),
        _ => None,
    });
    if let Some(Field { kind: Kind::List(kind), .. }) = container {
        let mut one = value(kind, &mut choices);
        (one["name"], one["image"]) = ("c".into(), "i:1".into());
        let mut spec = Map::new();
        spec.insert("containers".to_owned(), json!([one]));
        spec.insert("volumes".to_owned(), json!([{"name": "a"}, {"name": "v"}]));
        // Now and then the rest of the spec as well; alone the container has a better chance to be good.
        if let (0, Some(others)) = (choices.below(3), pod["spec"].as_object()) {
            for (key, value) in others {
                spec.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        pod["spec"] = spec.into();
    }
    pod.to_string()
}

fn check(seed: u64) -> bool {
    let text = manifest(seed);
    match parse("x", text.as_bytes()) {
        Err(problems) => {
            assert!(problems.iter().all(|problem| !problem.message.starts_with("Internal")), "{text}\n{problems:#?}");
            false
        }
        Ok(objects) => {
            let [Object::Pod(pod)] = &objects[..] else { panic!("{text}") };
            let again: Pod = serde_json::from_value(serde_json::to_value(pod).unwrap()).unwrap();
            assert_eq!(&again, &**pod, "{text}");
            // What `get -o json` prints can be applied again, and means the same.
            let printed = serde_json::to_vec(pod).unwrap();
            let reread = parse("x", &printed).unwrap_or_else(|problems| panic!("{text}\n{problems:#?}"));
            assert_eq!(reread, objects, "{text}");
            true
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(super::cases()))]

    #[test]
    fn what_passes_the_checks_fits_the_types(seed in any::<u64>()) {
        check(seed);
    }
}

#[test]
fn some_of_these_manifests_are_good() {
    let good = (1_u64..500).filter(|seed| check(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))).count();
    assert!(good > 20, "only {good} of 500");
}

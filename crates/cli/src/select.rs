//! Which objects a command means: label selectors, field selectors, and the order of `--sort-by`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::Value;

use crate::output::{Failure, Result};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    rule: Rule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl LabelSelector {
    /// `a=b,c!=d,e in (x,y),f notin (z),g,!h`
    pub fn parse(text: &str) -> Result<LabelSelector> {
        let bad = || Failure::error(format!("unable to parse requirement: {text:?} is not a label selector"));
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if !part.is_empty() {
                requirements.push(parse_requirement(part).ok_or_else(bad)?);
            }
        }
        Ok(LabelSelector(requirements))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.rule {
                Rule::Exists => value.is_some(),
                Rule::Absent => value.is_none(),
                Rule::In(values) => value.is_some_and(|value| values.contains(value)),
                Rule::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (place, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..place]);
                start = place + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(part: &str) -> Option<Requirement> {
    let key = |text: &str| {
        let text = text.trim();
        let is_key = !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/'));
        is_key.then(|| text.to_owned())
    };
    if let Some(absent) = part.strip_prefix('!') {
        return Some(Requirement { key: key(absent)?, rule: Rule::Absent });
    }
    if let Some((name, set)) = part.split_once('(') {
        let values = set.strip_suffix(')')?.split(',').map(|value| value.trim().to_owned()).collect();
        let mut words = name.split_whitespace();
        let (name, operator) = (words.next()?, words.next()?);
        let rule = match operator {
            "in" => Rule::In(values),
            "notin" => Rule::NotIn(values),
            _ => return None,
        };
        return words.next().is_none().then_some(Requirement { key: key(name)?, rule });
    }
    if let Some((name, value)) = part.split_once("!=") {
        return Some(Requirement { key: key(name)?, rule: Rule::NotIn(vec![value.trim().to_owned()]) });
    }
    if let Some((name, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Requirement { key: key(name)?, rule: Rule::In(vec![value.trim().to_owned()]) });
    }
    Some(Requirement { key: key(part)?, rule: Rule::Exists })
}

/// What a field selector may name, and where that stands in a pod's JSON.
const POD_FIELDS: [(&str, &str); 11] = [
    ("metadata.name", "/metadata/name"),
    ("metadata.namespace", "/metadata/namespace"),
    ("spec.nodeName", "/spec/nodeName"),
    ("spec.restartPolicy", "/spec/restartPolicy"),
    ("spec.schedulerName", "/spec/schedulerName"),
    ("spec.serviceAccountName", "/spec/serviceAccountName"),
    ("spec.hostNetwork", "/spec/hostNetwork"),
    ("status.phase", "/status/phase"),
    ("status.podIP", "/status/podIP"),
    ("status.podIPs", "/status/podIP"),
    ("status.nominatedNodeName", "/status/nominatedNodeName"),
];

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector(Vec<FieldRequirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRequirement {
    pointer: &'static str,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// `status.phase=Running,metadata.name!=web`
    pub fn parse(text: &str) -> Result<FieldSelector> {
        let mut requirements = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (field, value, equal) = if let Some((field, value)) = part.split_once("!=") {
                (field, value, false)
            } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (field, value, true)
            } else {
                return Err(Failure::error(format!(
                    "invalid field selector: {part:?}; can't understand selector, expected 'field=value'"
                )));
            };
            let Some((_, pointer)) = POD_FIELDS.iter().find(|(name, _)| *name == field) else {
                return Err(Failure::bad_request(format!(
                    "Unable to find \"/v1, Resource=pods\" that match label selector \"\", field selector {text:?}: \
                     field label not supported: {field}"
                )));
            };
            requirements.push(FieldRequirement { pointer, value: value.to_owned(), equal });
        }
        Ok(FieldSelector(requirements))
    }

    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|requirement| {
            let text = match object.pointer(requirement.pointer) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Bool(flag)) => flag.to_string(),
                _ if requirement.pointer == "/spec/hostNetwork" => "false".to_owned(),
                _ => String::new(),
            };
            (text == requirement.value) == requirement.equal
        })
    }
}

/// Sorts by a field: `.metadata.name`, `{.status.podIP}`, `spec.containers[0].image`. Objects without it come first.
pub fn sort_by<T>(items: &mut [T], path: &str, object: impl Fn(&T) -> Value) -> Result<()> {
    let bad = || Failure::error(format!("couldn't find any field with path \"{{{path}}}\" in the list of objects"));
    let pointer = pointer(path).ok_or_else(bad)?;
    let values: Vec<Option<Value>> = items.iter().map(|item| object(item).pointer(&pointer).cloned()).collect();
    if !items.is_empty() && values.iter().all(Option::is_none) {
        return Err(bad());
    }
    items.sort_by(|a, b| compare(object(a).pointer(&pointer), object(b).pointer(&pointer)));
    Ok(())
}

fn pointer(path: &str) -> Option<String> {
    let path = path.strip_prefix('{').and_then(|path| path.strip_suffix('}')).unwrap_or(path);
    let path = path.strip_prefix("$").unwrap_or(path);
    let path = path.strip_prefix('.').unwrap_or(path);
    let mut pointer = String::new();
    for part in path.split('.') {
        let (name, rest) = part.split_once('[').map_or((part, ""), |(name, rest)| (name, rest));
        if name.is_empty() {
            return None;
        }
        pointer.push('/');
        pointer.push_str(name);
        for index in rest.split('[').filter(|index| !index.is_empty()) {
            let index: usize = index.strip_suffix(']')?.parse().ok()?;
            pointer.push_str(&format!("/{index}"));
        }
    }
    Some(pointer)
}

fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal)
        }
        (Some(a), Some(b)) => text(a).cmp(&text(b)),
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(selector: &str) -> bool {
        let labels = [("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "front".to_owned())].into();
        LabelSelector::parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn label_selectors_have_the_apis_forms() {
        for (selector, matches) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app=web,tier=back", false),
            ("app!=web", false),
            ("other!=x", true),
            ("app in (web, db)", true),
            ("app notin (web,db)", false),
            ("other notin (x)", true),
            ("app", true),
            ("!app", false),
            ("!other,tier in (front)", true),
        ] {
            assert_eq!(selects(selector), matches, "{selector}");
        }
        for bad in ["a b", "app in web", "app near (x)", "=x", "!"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_selectors_know_the_pods_fields_only() {
        let pod = json!({"metadata": {"name": "web"}, "status": {"phase": "Running"}});
        for (selector, matches) in [
            ("metadata.name=web", true),
            ("metadata.name!=web", false),
            ("status.phase==Running,spec.nodeName=", true),
            ("spec.hostNetwork=false", true),
        ] {
            assert_eq!(FieldSelector::parse(selector).unwrap().matches(&pod), matches, "{selector}");
        }
        let failure = FieldSelector::parse("spec.image=x").unwrap_err();
        assert!(failure.text.ends_with("field label not supported: spec.image"), "{}", failure.text);
    }

    #[test]
    fn objects_are_sorted_by_any_field() {
        let mut items = vec![json!({"a": {"n": 10}}), json!({"a": {"n": 9}}), json!({"b": 1})];
        sort_by(&mut items, "{.a.n}", Clone::clone).unwrap();
        assert_eq!(items, [json!({"b": 1}), json!({"a": {"n": 9}}), json!({"a": {"n": 10}})]);
        assert!(sort_by(&mut items, ".nothing", Clone::clone).is_err());
        assert_eq!(pointer(".spec.containers[0].image").unwrap(), "/spec/containers/0/image");
    }
}

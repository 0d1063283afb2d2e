//! The kinds that commands name, in kubectl's spellings.

use crate::output::{Failure, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Pod,
    Event,
    ConfigMap,
    Secret,
}

impl Resource {
    pub fn parse(word: &str) -> Result<Resource> {
        match word.to_ascii_lowercase().as_str() {
            "pod" | "pods" | "po" => Ok(Resource::Pod),
            "event" | "events" | "ev" => Ok(Resource::Event),
            "configmap" | "configmaps" | "cm" => Ok(Resource::ConfigMap),
            "secret" | "secrets" => Ok(Resource::Secret),
            _ => Err(Failure::error(format!("the server doesn't have a resource type \"{word}\""))),
        }
    }

    pub fn singular(self) -> &'static str {
        match self {
            Resource::Pod => "pod",
            Resource::Event => "event",
            Resource::ConfigMap => "configmap",
            Resource::Secret => "secret",
        }
    }

    pub fn plural(self) -> &'static str {
        match self {
            Resource::Pod => "pods",
            Resource::Event => "events",
            Resource::ConfigMap => "configmaps",
            Resource::Secret => "secrets",
        }
    }
}

/// What a command is about: kinds with the names given for them (none: all of the kind).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub resource: Resource,
    pub names: Vec<String>,
}

/// `pods`, `pods,cm`, `pod a b`, `pod/a cm/b`.
pub fn parse_arguments(arguments: &[String]) -> Result<Vec<Wanted>> {
    let Some(first) = arguments.first() else { return Ok(Vec::new()) };
    if !arguments.iter().any(|argument| argument.contains('/')) {
        let names = &arguments[1..];
        return first
            .split(',')
            .map(|word| Ok(Wanted { resource: Resource::parse(word)?, names: names.to_vec() }))
            .collect();
    }
    let mut wanted: Vec<Wanted> = Vec::new();
    for argument in arguments {
        let Some((kind, name)) = argument.split_once('/') else {
            return Err(Failure::error(
                "there is no need to specify a resource type as a separate argument when passing arguments in \
                 resource/name form (e.g. 'killick get resource/<resource_name>' instead of 'killick get resource \
                 resource/<resource_name>'",
            ));
        };
        if kind.is_empty() || name.is_empty() || name.contains('/') {
            return Err(Failure::error("arguments in resource/name form must have a single resource and name"));
        }
        let resource = Resource::parse(kind)?;
        match wanted.iter_mut().find(|wanted| wanted.resource == resource) {
            Some(known) => known.names.push(name.to_owned()),
            None => wanted.push(Wanted { resource, names: vec![name.to_owned()] }),
        }
    }
    Ok(wanted)
}

/// `web`, `pod/web`: the pod that `logs`, `exec` and the like are about.
pub fn pod_name(argument: &str) -> Result<&str> {
    match argument.split_once('/') {
        None => Ok(argument),
        Some((kind, name)) => match Resource::parse(kind)? {
            Resource::Pod => Ok(name),
            other => Err(Failure::error(format!("cannot attach to {}: only pods have containers", other.plural()))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Vec<Wanted>> {
        parse_arguments(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn names_come_after_the_kind_or_with_it() {
        let pods = |names: &[&str]| Wanted {
            resource: Resource::Pod,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(parse(&["po"]).unwrap(), [pods(&[])]);
        assert_eq!(parse(&["Pods", "a", "b"]).unwrap(), [pods(&["a", "b"])]);
        assert_eq!(parse(&["pod/a", "pods/b"]).unwrap(), [pods(&["a", "b"])]);
        assert_eq!(parse(&["pods,secrets"]).unwrap()[1].resource, Resource::Secret);
        assert!(parse(&["pod", "pod/a"]).is_err());
        assert_eq!(parse(&["gadgets"]).unwrap_err().text, "error: the server doesn't have a resource type \"gadgets\"");
        assert_eq!(pod_name("pod/web").unwrap(), "web");
        assert!(pod_name("cm/web").is_err());
    }
}

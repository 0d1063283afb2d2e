//! Which container of a pod a command means, and kubectl's words about it.

use killick_pod::spec::Pod;

use crate::output::{Failure, Result};

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The chosen name, and the line that is said when it was not the user's own choice among several.
pub fn choose(pod: &Pod, wanted: Option<&str>) -> Result<(String, Option<String>)> {
    let regular = pod.spec.containers.iter().map(|container| container.name.as_str());
    let init = pod.spec.init_containers.iter().map(|container| container.name.as_str());
    let all: Vec<&str> = regular.clone().chain(init.clone()).collect();
    let out_of =
        regular.map(str::to_owned).chain(init.map(|name| format!("{name} (init)"))).collect::<Vec<_>>().join(", ");
    if let Some(name) = wanted {
        if all.contains(&name) {
            return Ok((name.to_owned(), None));
        }
        let pod = &pod.metadata.name;
        return Err(Failure::error(format!("container {name} is not valid for pod {pod} out of: {out_of}")));
    }
    let annotated = pod.metadata.annotations.get(DEFAULT_CONTAINER).map(String::as_str);
    if let Some(name) = annotated.filter(|name| all.contains(name)) {
        return Ok((name.to_owned(), None));
    }
    let Some(first) = pod.spec.containers.first() else {
        return Err(Failure::error(format!("pod {} has no containers", pod.metadata.name)));
    };
    let said = (all.len() > 1).then(|| format!("Defaulted container \"{}\" out of: {out_of}", first.name));
    Ok((first.name.clone(), said))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_regular_container_is_meant_and_said_when_there_are_others() {
        let mut pod = crate::testing::pod(
            "p",
            json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
                   "initContainers": [{"name": "i", "image": "i"}]}),
        );
        let (name, said) = choose(&pod, None).unwrap();
        assert_eq!((name.as_str(), said.as_deref()), ("a", Some("Defaulted container \"a\" out of: a, b, i (init)")));
        assert_eq!(choose(&pod, Some("i")).unwrap(), ("i".to_owned(), None));
        assert_eq!(
            choose(&pod, Some("x")).unwrap_err().text,
            "error: container x is not valid for pod p out of: a, b, i (init)"
        );
        pod.metadata.annotations.insert(DEFAULT_CONTAINER.into(), "b".into());
        assert_eq!(choose(&pod, None).unwrap(), ("b".to_owned(), None));
        let single = crate::testing::pod("p", json!({"containers": [{"name": "a", "image": "i"}]}));
        assert_eq!(choose(&single, None).unwrap(), ("a".to_owned(), None));
    }
}

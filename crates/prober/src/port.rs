//! Which port a handler means (kubelet.md §1.9).

use crate::url::quote;
use killick_pod::spec::{Container, Port};

/// A name is one of this container's ports; a name that is none of them may still be a number.
pub(crate) fn resolve(port: &Port, container: &Container) -> Result<u16, String> {
    let number = match port {
        Port::Number(number) => i64::from(*number),
        Port::Name(name) => match container.ports.iter().find(|known| known.name.as_deref() == Some(name)) {
            Some(known) => i64::from(known.container_port),
            None => {
                name.parse::<i64>().map_err(|_| format!("strconv.Atoi: parsing {}: invalid syntax", quote(name)))?
            }
        },
    };
    match u16::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("invalid port number: {number}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ports_of_the_container_or_numbers() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "web", "image": "x", "imagePullPolicy": "Never",
            "terminationMessagePath": "", "terminationMessagePolicy": "File",
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"containerPort": 1, "protocol": "TCP"}],
        }))
        .unwrap();
        let name = |name: &str| resolve(&Port::Name(name.to_owned()), &container);
        assert_eq!(resolve(&Port::Number(80), &container), Ok(80));
        assert_eq!(name("http"), Ok(8080));
        assert_eq!(name("81"), Ok(81));
        assert_eq!(name("foo"), Err("strconv.Atoi: parsing \"foo\": invalid syntax".to_owned()));
        assert_eq!(name("70000"), Err("invalid port number: 70000".to_owned()));
        assert_eq!(resolve(&Port::Number(0), &container), Err("invalid port number: 0".to_owned()));
    }
}

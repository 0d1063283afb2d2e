//! `runAsNonRoot`: whether a container may run as the user it would get (kubelet.md §6.4).

use crate::spec::{Container, Pod};

/// `image_user` is the image's `User` (`""`, `101`, `101:102`, `nginx`, `nginx:www`); of a name nobody can say here
/// whose it is.
///
/// # Errors
/// The text of a `CreateContainerConfigError`.
pub fn check_non_root(pod: &Pod, container: &Container, image_user: &str) -> Result<(), String> {
    let (own, common) = (&container.security_context, &pod.spec.security_context);
    if own.run_as_non_root.or(common.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let what = match own.run_as_user.or(common.run_as_user) {
        Some(0) => "container's runAsUser breaks non-root policy".to_owned(),
        Some(_) => return Ok(()),
        None => match image_user.split(':').next().unwrap_or_default() {
            "" => "container has runAsNonRoot and image will run as root".to_owned(),
            user => match user.parse::<u32>() {
                Ok(0) => "container has runAsNonRoot and image will run as root".to_owned(),
                Ok(_) => return Ok(()),
                Err(_) => format!(
                    "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root"
                ),
            },
        },
    };
    let metadata = &pod.metadata;
    let name = format!("{}_{}({})", metadata.name, metadata.namespace, metadata.uid);
    Err(format!("{what} (pod: \"{name}\", container: {})", container.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Object, parse};

    fn check(pod_context: &str, container_context: &str, image_user: &str, expected: Result<(), &str>) {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  securityContext: {pod_context}\n  containers: \
             [{{name: c, image: 'i:1', securityContext: {container_context}}}]\n"
        );
        let Object::Pod(mut pod) = parse("x", text.as_bytes()).unwrap().remove(0) else { panic!() };
        pod.metadata.uid = "u".to_owned();
        let expected = expected.map_err(|text| format!("{text} (pod: \"p_default(u)\", container: c)"));
        assert_eq!(check_non_root(&pod, &pod.spec.containers[0], image_user), expected, "{text} {image_user}");
    }

    #[test]
    fn run_as_non_root_refuses_what_is_or_may_be_root() {
        const ASKED: &str = "{runAsNonRoot: true}";
        let root = "container has runAsNonRoot and image will run as root";
        check("{}", "{}", "", Ok(()));
        check("{}", "{runAsUser: 0}", "0", Ok(()));
        check(ASKED, "{runAsNonRoot: false}", "", Ok(()));
        check(ASKED, "{}", "", Err(root));
        check(ASKED, "{}", "0:5", Err(root));
        check(ASKED, "{}", "101", Ok(()));
        check(ASKED, "{}", "101:0", Ok(()));
        check("{}", ASKED, "", Err(root));
        let unknown =
            "container has runAsNonRoot and image has non-numeric user (nginx), cannot verify user is non-root";
        check(ASKED, "{}", "nginx:www", Err(unknown));
        check(ASKED, "{runAsUser: 5}", "nginx", Ok(()));
        check(ASKED, "{runAsUser: 0}", "101", Err("container's runAsUser breaks non-root policy"));
        check("{runAsNonRoot: true, runAsUser: 0}", "{}", "101", Err("container's runAsUser breaks non-root policy"));
        check("{runAsNonRoot: true, runAsUser: 0}", "{runAsUser: 7}", "", Ok(()));
    }
}

//! Other limits for a container that lives: what is not named stays, and a change that fails leaves all as it was.

use crate::cgroup::Cgroup;
use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

/// Applies `change` (a `linux.resources` object) to the cgroup and, once that is done, to the accepted configuration.
/// Warnings: as `Cgroup::set`.
pub fn update(cgroup: &Cgroup, config: &mut Value, mut change: Value) -> Result<Vec<String>, String> {
    crate::support::remove_nulls(&mut change);
    let Some(object) = change.as_object_mut() else { return Err("resources must be an object".into()) };
    // Device rules are create's business, as with runc.
    object.remove("devices");
    let old = config.pointer("/linux/resources").cloned().unwrap_or_else(|| json!({}));
    complete(&mut change, &old);
    let wanted = parse(&change)?;
    let warnings = match cgroup.set(&wanted) {
        Ok(warnings) => warnings,
        Err(error) => {
            let mut before = old;
            if let Some(object) = before.as_object_mut() {
                object.remove("devices");
            }
            // The first error is the one to tell.
            let _ = parse(&before).map(|before| cgroup.set(&before));
            return Err(error.to_string());
        }
    };
    if config.get("linux").is_none() {
        config["linux"] = json!({});
    }
    let mut merged = old;
    merge(&mut merged, change);
    config["linux"]["resources"] = merged;
    Ok(warnings)
}

fn parse(resources: &Value) -> Result<LinuxResources, String> {
    crate::config::typed(resources, "resources")
}

/// Quota and period are one file on v2: the half that is not given stays as it is.
fn complete(change: &mut Value, old: &Value) {
    for (given, other) in [("quota", "period"), ("period", "quota")] {
        let is_half =
            change.pointer(&format!("/cpu/{given}")).is_some() && change.pointer(&format!("/cpu/{other}")).is_none();
        if let Some(kept) = old.pointer(&format!("/cpu/{other}")).filter(|_| is_half) {
            change["cpu"][other] = kept.clone();
        }
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert_with(|| Value::Object(Map::new())), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_quota_and_period_the_other_half_stays() {
        let mut change = json!({"cpu": {"quota": 5000}});
        complete(&mut change, &json!({"cpu": {"period": 20000}, "pids": {"limit": 4}}));
        assert_eq!(change, json!({"cpu": {"quota": 5000, "period": 20000}}));
    }
}

//! Maps of user namespaces and of id-mapped mounts: checked as text before anything is made, in the words of runc, and
//! turned into what the kernel is told.

use killick_sys::userns::{IdMap, MAP_BYTES_MAX, MAP_LINES_MAX, Maps, map_text};
use oci_spec::runtime::LinuxIdMapping;
use serde_json::Value;

/// One past the largest id: -1 is none.
const IDS: u64 = u32::MAX as u64;

/// The map that a configuration lists at `field`, or what is wrong with it.
pub(crate) fn check_map(field: &str, listed: &Value) -> Result<Vec<IdMap>, String> {
    let Some(listed) = listed.as_array() else { return Err(format!("{field}: must be a list")) };
    if listed.len() > MAP_LINES_MAX {
        return Err(format!("{field}: {} ranges; the kernel takes {MAP_LINES_MAX}", listed.len()));
    }
    let mut map: Vec<IdMap> = Vec::new();
    for (index, range) in listed.iter().enumerate() {
        let number = |name: &str| {
            let value = range.get(name).cloned().unwrap_or(Value::from(0));
            let number = value.as_u64().filter(|number| *number <= IDS);
            number.ok_or_else(|| format!("{field}[{index}].{name}: {value} is no id"))
        };
        let (inside, outside, count) = (number("containerID")?, number("hostID")?, number("size")?);
        if count == 0 {
            return Err(format!("{field}[{index}].size: a range of no ids"));
        }
        if inside + count > IDS || outside + count > IDS {
            return Err(format!("{field}[{index}]: the range {inside} {outside} {count} goes beyond the last id"));
        }
        let overlaps = |a: u32, b: u64, length: u32| {
            let (a, b, length) = (u64::from(a), b, u64::from(length));
            a < b + count && b < a + length
        };
        let other = map.iter().position(|other| {
            overlaps(other.inside, inside, other.count) || overlaps(other.outside, outside, other.count)
        });
        if let Some(other) = other {
            return Err(format!("{field}[{index}]: the range {inside} {outside} {count} overlaps {field}[{other}]"));
        }
        // All three were compared with u32::MAX.
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        map.push(IdMap { inside: small(inside), outside: small(outside), count: small(count) });
    }
    let bytes = map_text(&map).len();
    if bytes > MAP_BYTES_MAX {
        return Err(format!("{field}: {bytes} bytes as the kernel reads them, which takes {MAP_BYTES_MAX}"));
    }
    Ok(map)
}

/// Both or neither.
fn check_both(of: &str, value: &Value) -> Result<Maps, String> {
    let list = |name: &str| match value.get(name) {
        Some(listed) => check_map(&format!("{of}.{name}"), listed),
        None => Ok(Vec::new()),
    };
    let maps = Maps { uid: list("uidMappings")?, gid: list("gidMappings")? };
    match (maps.uid.is_empty(), maps.gid.is_empty()) {
        (true, false) => Err(format!("{of}.gidMappings without {of}.uidMappings: a map of both or of none")),
        (false, true) => Err(format!("{of}.uidMappings without {of}.gidMappings: a map of both or of none")),
        _ => Ok(maps),
    }
}

/// `linux.uidMappings` and `linux.gidMappings`, with what is listed of the user namespace: None, new, or joined.
pub(crate) fn check_user(config: &Value, user: Option<Option<&str>>) -> Result<(), String> {
    let none = Value::Null;
    let maps = check_both("linux", config.get("linux").unwrap_or(&none))?;
    let given = !maps.uid.is_empty();
    match user {
        None if given => {
            Err("linux.uidMappings: user namespace mappings specified, but user namespace isn't enabled in the config"
                .into())
        }
        Some(None) if !given => Err("linux.namespaces: user namespaces enabled, but no namespace path to join nor \
                                     mappings to apply specified"
            .into()),
        Some(_) if given => {
            for (field, map) in [("linux.uidMappings", &maps.uid), ("linux.gidMappings", &maps.gid)] {
                if killick_sys::userns::outside(map, 0).is_none() {
                    return Err(format!("{field}: container id 0 is not mapped; the container's root must be"));
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// `mounts[].uidMappings`, and `idmap` without them.
pub(crate) fn check_mount(mount: &Value, has_user_namespace: bool) -> Result<(), String> {
    let destination = mount.get("destination").and_then(Value::as_str).unwrap_or_default();
    let at = format!("mount {destination}");
    let maps = check_both(&at, mount)?;
    let options = || mount.get("options").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let wanted = options().any(|option| option == "idmap" || option == "ridmap");
    if !wanted && maps.uid.is_empty() {
        return Ok(());
    }
    let is_bind = options().any(|option| option == "bind" || option == "rbind")
        || mount.get("type").and_then(Value::as_str) == Some("bind");
    if !is_bind {
        return Err(format!("{at}: id-mapped mounts are only supported for bind mounts"));
    }
    if maps.uid.is_empty() && !has_user_namespace {
        return Err(format!(
            "{at}: option \"idmap\" without uidMappings and gidMappings takes those of the container's user namespace, \
             and it has none"
        ));
    }
    Ok(())
}

/// `linux.timeOffsets`, with what is listed of the time namespace.
pub(crate) fn check_time(config: &Value, time: Option<Option<&str>>) -> Result<(), String> {
    let offsets = config.pointer("/linux/timeOffsets").and_then(Value::as_object);
    let Some(offsets) = offsets.filter(|offsets| !offsets.is_empty()) else { return Ok(()) };
    match time {
        None => {
            return Err(
                "linux.timeOffsets: time namespace offsets specified, but time namespace isn't enabled in the \
                        config"
                    .into(),
            );
        }
        Some(Some(path)) => {
            return Err(format!("linux.timeOffsets: the time namespace {path} exists: nobody may set its offsets"));
        }
        Some(None) => {}
    }
    for (clock, offset) in offsets {
        if clock != "monotonic" && clock != "boottime" {
            return Err(format!("linux.timeOffsets: there is no clock {clock:?}; there are monotonic and boottime"));
        }
        let number = |name: &str| match offset.get(name) {
            None => Some(0),
            Some(value) => value.as_i64(),
        };
        let valid = number("secs").is_some() && number("nanosecs").is_some_and(|n| (0..1_000_000_000).contains(&n));
        if !valid {
            return Err(format!("linux.timeOffsets.{clock}: {offset} is no offset"));
        }
    }
    Ok(())
}

/// A list that `check_map` has seen.
pub(crate) fn maps(uid: Option<&Vec<LinuxIdMapping>>, gid: Option<&Vec<LinuxIdMapping>>) -> Maps {
    let convert = |listed: Option<&Vec<LinuxIdMapping>>| {
        let range = |range: &LinuxIdMapping| IdMap {
            inside: range.container_id(),
            outside: range.host_id(),
            count: range.size(),
        };
        listed.into_iter().flatten().map(range).collect()
    };
    Maps { uid: convert(uid), gid: convert(gid) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(listed: Value, expected: &str) {
        let answer = check_map("m", &listed).map_or_else(|error| error, |map| map_text(&map).replace('\n', ","));
        assert_eq!(answer, expected, "{listed}");
    }

    #[test]
    fn a_map_is_what_the_kernel_takes_or_an_error_that_names_the_range() {
        let range =
            |inside: u64, outside: u64, size: u64| json!({"containerID": inside, "hostID": outside, "size": size});
        check(json!([range(0, 100_000, 65_536)]), "0 100000 65536,");
        check(json!([range(0, 5, 1), range(1, 100, 9)]), "0 5 1,1 100 9,");
        check(json!([range(0, 0, u64::from(u32::MAX))]), "0 0 4294967295,");
        check(json!([range(0, 5, 0)]), "m[0].size: a range of no ids");
        check(json!([{"containerID": -1, "hostID": 0, "size": 1}]), "m[0].containerID: -1 is no id");
        check(json!([{"containerID": 0, "hostID": "x", "size": 1}]), "m[0].hostID: \"x\" is no id");
        check(json!([range(0, 4_294_967_296, 1)]), "m[0].hostID: 4294967296 is no id");
        check(json!([range(4_294_967_295, 0, 1)]), "m[0]: the range 4294967295 0 1 goes beyond the last id");
        check(json!([range(0, 10, 5), range(4, 20, 5)]), "m[1]: the range 4 20 5 overlaps m[0]");
        check(json!([range(0, 10, 5), range(5, 14, 5)]), "m[1]: the range 5 14 5 overlaps m[0]");
        let many: Vec<Value> = (0..341).map(|n| range(n, n, 1)).collect();
        check(json!(many), "m: 341 ranges; the kernel takes 340");
        let long: Vec<Value> = (0..300).map(|n| range(1_000_000_000 + n * 10, 2_000_000_000 + n * 10, 1)).collect();
        check(json!(long), "m: 7200 bytes as the kernel reads them, which takes 4095");
        check(json!("x"), "m: must be a list");
    }

    #[test]
    fn mappings_and_user_namespace_go_together() {
        let full = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
        let high = json!([{"containerID": 1, "hostID": 100_000, "size": 10}]);
        let both = |uid: &Value, gid: &Value| json!({"linux": {"uidMappings": uid, "gidMappings": gid}});
        assert_eq!(check_user(&both(&full, &full), Some(None)), Ok(()));
        assert_eq!(check_user(&both(&full, &full), Some(Some("/ns"))), Ok(()), "compared when it is opened");
        assert_eq!(check_user(&json!({}), None), Ok(()));
        assert_eq!(check_user(&json!({}), Some(Some("/ns"))), Ok(()));
        for (config, user, expected) in [
            (both(&full, &full), None, "user namespace isn't enabled in the config"),
            (json!({}), Some(None), "no namespace path to join nor mappings to apply specified"),
            (both(&full, &high), Some(None), "linux.gidMappings: container id 0 is not mapped"),
            (json!({"linux": {"uidMappings": full}}), Some(None), "linux.uidMappings without linux.gidMappings"),
            (json!({"linux": {"gidMappings": full}}), None, "linux.gidMappings without linux.uidMappings"),
        ] {
            let error = check_user(&config, user).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn time_offsets_are_for_a_new_namespace_and_two_clocks() {
        let config = |clock: &str, offset: Value| json!({"linux": {"timeOffsets": {clock: offset}}});
        let plain = config("boottime", json!({"secs": -7, "nanosecs": 1}));
        assert_eq!(check_time(&plain, Some(None)), Ok(()));
        assert_eq!(check_time(&json!({}), None), Ok(()));
        for (config, time, expected) in [
            (plain.clone(), None, "time namespace isn't enabled in the config"),
            (plain, Some(Some("/ns")), "nobody may set its offsets"),
            (config("realtime", json!({})), Some(None), "there is no clock \"realtime\""),
            (config("monotonic", json!({"nanosecs": 1_000_000_000})), Some(None), "is no offset"),
            (config("monotonic", json!({"secs": 1.5})), Some(None), "is no offset"),
        ] {
            let error = check_time(&config, time).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}

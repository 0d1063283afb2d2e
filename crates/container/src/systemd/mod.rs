//! systemd's cgroup driver: a container's cgroup is a unit of systemd's, made, changed and ended by asking it over D-Bus.
//!
//! `names` and `properties` decide, `bus` talks, `Manager` has the verbs. What systemd cannot say is written into the
//! cgroup's files by `cgroup`, which calls this; nothing here knows a cgroup file. Every verb blocks, at most until its
//! deadline: it is for commands and worker children.

use std::path::Path;
use std::time::{Duration, Instant};

pub mod annotations;
pub mod bus;
pub mod names;
pub mod properties;
pub mod wire;

pub use annotations::AnnotationError;
pub use bus::{Address, BusError};
pub use names::{NameError, Unit, is_unit_form};

use bus::{Bus, Call, MANAGER, MANAGER_PATH};
use properties::Property;
use wire::Value;

/// A unit that is not there, or a job that is not done by then, is given up.
pub const DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SystemdError {
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(
        "systemd cgroup flag passed, but systemd support for managing cgroups is not available: systemd does not run this \
         host (there is no /run/systemd/system); use the cgroupfs driver"
    )]
    NotRunning,
    #[error("unit {0} already exists")]
    Exists(String),
    #[error("error creating systemd unit `{unit}`: got `{result}`")]
    Start { unit: String, result: String },
    #[error("systemd has put process {pid} of unit {unit} into {found:?} instead of {wanted:?}")]
    Misplaced { unit: String, pid: i32, found: String, wanted: String },
}

/// systemd runs this host.
pub fn runs_host() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Who makes a container's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// systemd where it runs the host and `cgroupsPath` has its form, else the files.
    Auto,
    Cgroupfs,
    Systemd,
}

/// The unit that a container is to be, None where its path is one of directories.
pub fn choose(driver: Driver, path: Option<&str>, id: &str) -> Result<Option<Unit>, SystemdError> {
    let path = path.filter(|path| !path.is_empty());
    match driver {
        Driver::Cgroupfs => Ok(None),
        Driver::Auto => match path.filter(|path| is_unit_form(path) && runs_host()) {
            Some(path) => Ok(Some(Unit::parse(path)?)),
            None => Ok(None),
        },
        Driver::Systemd if !runs_host() => Err(SystemdError::NotRunning),
        Driver::Systemd => Ok(Some(path.map_or_else(|| Unit::of_container(id), Unit::parse)?)),
    }
}

/// systemd, over one connection.
#[derive(Debug)]
pub struct Manager {
    bus: Bus,
    address: Address,
    version: Option<u32>,
}

/// What a unit is started with.
#[derive(Debug)]
pub struct Start<'a> {
    pub unit: &'a Unit,
    /// The process that is to be in the scope; a slice has none of its own.
    pub pid: Option<i32>,
    pub description: String,
    /// The controllers are on v2: other counters are asked for.
    pub is_v2: bool,
    pub annotated: Vec<Property>,
    pub resources: Vec<Property>,
}

/// How often a lost connection is made again within one operation.
const RECONNECTS_MAX: u32 = 5;
/// Without these a unit is not what was asked for.
const NEEDED: [&str; 4] = ["Description", "Slice", "PIDs", "Wants"];

impl Manager {
    pub fn connect(address: &Address, deadline: Instant) -> Result<Manager, SystemdError> {
        let bus = Bus::connect(address, deadline)?;
        Ok(Manager { bus, address: address.clone(), version: None })
    }

    /// Asks for the version: some properties are younger than some systemds, or mean something else to them.
    pub fn ask_version(&mut self, deadline: Instant) -> Result<(), SystemdError> {
        let version = self.property(MANAGER_PATH, MANAGER, "Version", deadline)?;
        self.version = version.as_deref().and_then(number_of);
        Ok(())
    }

    /// None where it says nothing that has a number.
    pub fn version(&self) -> Option<u32> {
        self.version
    }

    fn property(
        &mut self,
        path: &str,
        interface: &str,
        name: &str,
        deadline: Instant,
    ) -> Result<Option<String>, SystemdError> {
        let body = vec![Value::text(interface), Value::text(name)];
        let answer = self.again("org.freedesktop.DBus.Properties", path, "Get", body, deadline)?;
        Ok(answer.first().and_then(Value::as_text).map(str::to_owned))
    }

    /// A call that may be made twice: systemd loses its connections when it executes itself anew.
    fn again(
        &mut self,
        interface: &str,
        path: &str,
        member: &str,
        body: Vec<Value>,
        deadline: Instant,
    ) -> Result<Vec<Value>, BusError> {
        let mut tries = 0;
        loop {
            match self.bus.call(Call { path, interface, member, body: body.clone() }, deadline) {
                Err(error) if error.is_disconnect() && tries < RECONNECTS_MAX => {
                    tries += 1;
                    self.reconnect(deadline)?;
                }
                other => return other,
            }
        }
    }

    fn reconnect(&mut self, deadline: Instant) -> Result<(), BusError> {
        const PAUSE: Duration = Duration::from_millis(20);
        loop {
            match Bus::connect(&self.address, deadline) {
                Ok(bus) => {
                    self.bus = bus;
                    return Ok(());
                }
                // Its socket is made anew as well.
                Err(error) if error.is_disconnect() && Instant::now() + PAUSE < deadline => std::thread::sleep(PAUSE),
                Err(error) => return Err(error),
            }
        }
    }

    fn call(&mut self, member: &str, body: Vec<Value>, deadline: Instant) -> Result<Vec<Value>, BusError> {
        self.bus.call(Call { path: MANAGER_PATH, interface: MANAGER, member, body }, deadline)
    }

    /// Starts a unit and waits until systemd has it. What this systemd does not know is left out and named.
    pub fn start(&mut self, start: Start<'_>, deadline: Instant) -> Result<Vec<String>, SystemdError> {
        let unit = start.unit;
        let mut warnings = Vec::new();
        let mut properties = self.known(basics(&start), &mut warnings);
        properties.extend(start.annotated);
        properties.extend(self.known(start.resources, &mut warnings));
        let (mut was_reset, mut losses) = (false, 0);
        loop {
            let body = vec![
                Value::text(&unit.name),
                Value::text("replace"),
                listed(&properties),
                Value::Array { of: "(sa(sv))".into(), items: Vec::new() },
            ];
            let started = self.call("StartTransientUnit", body, deadline);
            let error = match started.and_then(|answer| self.job(&answer, &unit.name, deadline)) {
                Ok(result) if result == "done" => return Ok(warnings),
                Ok(result) => return Err(SystemdError::Start { unit: unit.name.clone(), result }),
                Err(error) => error,
            };
            match &error {
                _ if unknown_property(&error).is_some_and(|name| leave_out(&mut properties, name)) => {
                    warnings.push(left_out(&error, self.version));
                }
                BusError::Refused { name, .. } if name.ends_with(".UnitExists") => {
                    // Ours, if the connection was lost after the first asking; a slice is anybody's.
                    if losses > 0 || unit.is_slice() {
                        self.change(unit, properties, deadline)?;
                        return Ok(warnings);
                    }
                    if was_reset {
                        return Err(SystemdError::Exists(unit.name.clone()));
                    }
                    was_reset = true;
                    self.reset_failed(&unit.name, deadline)?;
                }
                error if error.is_disconnect() && losses < RECONNECTS_MAX => {
                    losses += 1;
                    self.reconnect(deadline)?;
                }
                _ => return Err(error.into()),
            }
        }
    }

    /// Other limits for a unit that lives, until the next boot.
    pub fn set(&mut self, unit: &Unit, wanted: Vec<Property>, deadline: Instant) -> Result<Vec<String>, SystemdError> {
        let mut warnings = Vec::new();
        let mut properties = self.known(wanted, &mut warnings);
        while !properties.is_empty() {
            let body = vec![Value::text(&unit.name), Value::Bool(true), listed(&properties)];
            match self.again(MANAGER, MANAGER_PATH, "SetUnitProperties", body, deadline) {
                Ok(_) => break,
                Err(error) if unknown_property(&error).is_some_and(|name| leave_out(&mut properties, name)) => {
                    warnings.push(left_out(&error, self.version));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(warnings)
    }

    /// The limits among what a unit would have been started with.
    fn change(&mut self, unit: &Unit, mut all: Vec<Property>, deadline: Instant) -> Result<(), SystemdError> {
        let fixed = ["Delegate", "DefaultDependencies", "CollectMode"];
        all.retain(|(name, _)| !NEEDED.contains(&name.as_str()) && !fixed.contains(&name.as_str()));
        self.set(unit, all, deadline).map(drop)
    }

    /// Stops a unit and makes systemd forget it. One that has gone with its last process is stopped.
    pub fn stop(&mut self, unit: &Unit, deadline: Instant) -> Result<(), SystemdError> {
        let mut losses = 0;
        loop {
            let body = vec![Value::text(&unit.name), Value::text("replace")];
            let stopped = self.call("StopUnit", body, deadline);
            match stopped.and_then(|answer| self.job(&answer, &unit.name, deadline)) {
                // Whatever became of the job, what is left of the cgroup is removed by its files.
                Ok(_) => break,
                Err(BusError::Refused { name, .. }) if name.ends_with(".NoSuchUnit") => break,
                Err(error) if error.is_disconnect() && losses < RECONNECTS_MAX => {
                    losses += 1;
                    self.reconnect(deadline)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.reset_failed(&unit.name, deadline)
    }

    /// Puts a process into a scope that is there without it (238 and later): systemd forgets the processes of a start that
    /// it has interrupted to execute itself anew.
    pub fn attach(&mut self, unit: &Unit, pid: i32, deadline: Instant) -> Result<(), SystemdError> {
        let pids = u32::try_from(pid).map(Value::U32).into_iter().collect();
        let body = vec![Value::text(&unit.name), Value::text(""), Value::Array { of: "u".into(), items: pids }];
        self.again(MANAGER, MANAGER_PATH, "AttachProcessesToUnit", body, deadline)?;
        Ok(())
    }

    /// A unit that has not failed, or is not there, needs no reset.
    fn reset_failed(&mut self, unit: &str, deadline: Instant) -> Result<(), SystemdError> {
        match self.again(MANAGER, MANAGER_PATH, "ResetFailedUnit", vec![Value::text(unit)], deadline) {
            Ok(_) | Err(BusError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn job(&mut self, answer: &[Value], unit: &str, deadline: Instant) -> Result<String, BusError> {
        let what = format!("the job of {unit}");
        match answer.first().and_then(Value::as_text) {
            Some(job) => self.bus.job_result(job, &what, deadline),
            None => Err(BusError::Wire { what, error: wire::WireError::Malformed("an answer without a job") }),
        }
    }

    /// Those that this version has.
    fn known(&self, properties: Vec<Property>, warnings: &mut Vec<String>) -> Vec<Property> {
        let (known, unknown): (Vec<_>, Vec<_>) =
            properties.into_iter().partition(|(name, _)| properties::has(self.version, name));
        // That nothing is counted by systemd changes nothing for the container.
        let limits = unknown.iter().filter(|(name, _)| !name.ends_with("Accounting") && name != "CollectMode");
        warnings.extend(limits.map(|(name, _)| too_old(name, self.version)));
        known
    }
}

/// What every unit of ours has.
fn basics(start: &Start<'_>) -> Vec<Property> {
    let unit = start.unit;
    let mut properties = vec![("Description".to_owned(), Value::text(&start.description))];
    let mut add = |name: &str, value: Value| properties.push((name.to_owned(), value));
    if unit.is_slice() {
        if unit.slice != "-.slice" {
            add("Wants", Value::texts([unit.slice.clone()]));
        }
    } else {
        add("Slice", Value::text(&unit.slice));
        add("Delegate", Value::Bool(true));
        // A scope whose last process was killed would stay as failed.
        add("CollectMode", Value::text("inactive-or-failed"));
    }
    if let Some(pid) = start.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|_| !unit.is_slice()) {
        add("PIDs", Value::Array { of: "u".into(), items: vec![Value::U32(pid)] });
    }
    let io = if start.is_v2 { "IOAccounting" } else { "BlockIOAccounting" };
    for name in ["MemoryAccounting", "CPUAccounting", "TasksAccounting", io] {
        add(name, Value::Bool(true));
    }
    add("DefaultDependencies", Value::Bool(false));
    properties
}

fn listed(properties: &[Property]) -> Value {
    let entry =
        |(name, value): &Property| Value::Struct(vec![Value::text(name), Value::Variant(Box::new(value.clone()))]);
    Value::Array { of: "(sv)".into(), items: properties.iter().map(entry).collect() }
}

/// The property that systemd does not know, or does not let change: `Cannot set property X, or unknown property.`
fn unknown_property(error: &BusError) -> Option<&str> {
    let BusError::Refused { message, .. } = error else { return None };
    let after = message.split_once("Cannot set property ")?.1;
    after.split([',', ' ', '.', ':']).next().filter(|name| !name.is_empty())
}

/// False: it is not there, or cannot be done without.
fn leave_out(properties: &mut Vec<Property>, name: &str) -> bool {
    let before = properties.len();
    properties.retain(|(known, _)| known != name || NEEDED.contains(&name));
    properties.len() < before
}

fn left_out(error: &BusError, version: Option<u32>) -> String {
    too_old(unknown_property(error).unwrap_or_default(), version)
}

fn too_old(name: &str, version: Option<u32>) -> String {
    let version = version.map(|version| format!(" {version}")).unwrap_or_default();
    format!("systemd{version} has no property {name}: left out; a limit is written to the cgroup's files alone")
}

/// `252.39-1~deb12u1`, `systemd 219`, `v243-12-g0`.
fn number_of(version: &str) -> Option<u32> {
    let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The names of drivers, for a systemd that knows no numbers (before 240).
pub(crate) fn driver_name(kind: crate::devices::Kind, major: u32) -> Option<String> {
    let text = std::fs::read_to_string("/proc/devices").ok()?;
    let heading = if kind == crate::devices::Kind::Block { "Block devices:" } else { "Character devices:" };
    let lines = text.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.is_empty());
    lines
        .filter_map(|line| line.trim().split_once(' '))
        .find(|(number, _)| number.parse() == Ok(major))
        .map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_every_distribution_have_a_number() {
        for (text, expected) in [
            ("252.39-1~deb12u1", Some(252)),
            ("systemd 219", Some(219)),
            ("v243-12-g0", Some(243)),
            ("257", Some(257)),
            ("", None),
            ("rawhide", None),
            ("99999999999999", None),
        ] {
            assert_eq!(number_of(text), expected, "{text}");
        }
    }

    #[test]
    fn the_unknown_property_is_read_from_the_refusal() {
        for (message, expected) in [
            ("Cannot set property TasksMax, or unknown property.", Some("TasksMax")),
            ("Unknown property or interface.", None),
            ("Cannot set property ", None),
            ("Permission denied", None),
        ] {
            let refused = BusError::Refused { what: String::new(), name: "x".into(), message: message.to_owned() };
            assert_eq!(unknown_property(&refused), expected, "{message}");
        }
    }
}

//! `process.scheduler`, `process.ioPriority` and `process.execCPUAffinity`: checked here, done by the child itself.

use killick_sys::launch::{LaunchError, Step};
use killick_sys::schedule::SchedAttr;
use oci_spec::runtime::{IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler};

/// Cpus that an affinity may name.
const CPUS_MAX: usize = 8192;

/// What a first process and an exec do alike.
pub(crate) fn steps(process: &Process) -> Result<Vec<Step>, LaunchError> {
    let mut steps = Vec::new();
    if let Some(scheduler) = process.scheduler() {
        steps.push(Step::Scheduler(attributes(scheduler)?));
    }
    if let Some(io) = process.io_priority() {
        let class = match io.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let priority = u16::try_from(io.priority()).ok().filter(|priority| *priority <= 7);
        let priority =
            priority.ok_or_else(|| invalid(format!("ioPriority: priority {} is not in 0 to 7", io.priority())))?;
        steps.push(Step::IoPriority(class << 13 | priority));
    }
    Ok(steps)
}

/// For execs only: the first mask, then the last one.
pub(crate) fn affinity(process: &Process) -> Result<Vec<Step>, LaunchError> {
    let Some(affinity) = process.exec_cpu_affinity() else { return Ok(Vec::new()) };
    let masks = [affinity.initial(), affinity.cpu_affinity_final()];
    masks.into_iter().flatten().map(|list| Ok(Step::Affinity(cpus(list)?))).collect()
}

fn invalid(what: String) -> LaunchError {
    LaunchError::Unsupported(format!("process.{what}"))
}

fn attributes(scheduler: &Scheduler) -> Result<SchedAttr, LaunchError> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let (nice, priority) = (scheduler.nice().unwrap_or(0), scheduler.priority().unwrap_or(0));
    if !(-20..=19).contains(&nice) || (nice != 0 && !matches!(policy, 0 | 3)) {
        return Err(invalid(format!("scheduler.nice: {nice} is invalid here; it is -20 to 19, of OTHER and BATCH")));
    }
    if priority != 0 && !matches!(policy, 1 | 2) {
        return Err(invalid(format!("scheduler.priority: {priority} is invalid here; it is of FIFO and RR")));
    }
    let times = [scheduler.runtime(), scheduler.deadline(), scheduler.period()].map(|time| time.unwrap_or(0));
    if policy != 6 && times != [0; 3] {
        return Err(invalid("scheduler: runtime, deadline and period are of DEADLINE".into()));
    }
    let flags = scheduler.flags().iter().flatten().map(|flag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 1,
        LinuxSchedulerFlag::SchedFlagReclaim => 2,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 4,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 8,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    });
    let [runtime, deadline, period] = times;
    let priority = u32::try_from(priority).map_err(|_| invalid(format!("scheduler.priority: {priority}")))?;
    Ok(SchedAttr { policy, flags: flags.fold(0, |all, flag| all | flag), nice, priority, runtime, deadline, period })
}

/// The first 64 CPUs of such a list as bits: for a log line.
pub fn cpu_mask(list: &str) -> Result<u64, LaunchError> {
    Ok(cpus(list)?.into_iter().filter(|cpu| *cpu < 64).fold(0, |mask, cpu| mask | 1 << cpu))
}

/// `0-3,7`
fn cpus(list: &str) -> Result<Vec<usize>, LaunchError> {
    numbers(list, CPUS_MAX).ok_or_else(|| invalid(format!("execCPUAffinity: {list:?} is no list of cpus")))
}

/// A list of ranges, as the kernel writes them; None where it is none, or names nothing.
pub(crate) fn numbers(list: &str, limit: usize) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= limit {
            return None;
        }
        numbers.extend(first..=last);
    }
    if numbers.is_empty() { None } else { Some(numbers) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_lists_of_ranges() {
        assert_eq!(cpus("0-2, 5").unwrap(), [0, 1, 2, 5]);
        for wrong in ["", "x", "3-1", "9999999", "1-"] {
            assert!(cpus(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_policy_takes_only_what_is_its_own() {
        for (json, valid) in [
            (r#"{"policy":"SCHED_BATCH","nice":5}"#, true),
            (r#"{"policy":"SCHED_FIFO","priority":5}"#, true),
            (r#"{"policy":"SCHED_FIFO","nice":5}"#, false),
            (r#"{"policy":"SCHED_OTHER","nice":20}"#, false),
            (r#"{"policy":"SCHED_OTHER","priority":1}"#, false),
            (r#"{"policy":"SCHED_OTHER","runtime":1}"#, false),
        ] {
            let scheduler: Scheduler = serde_json::from_str(json).unwrap();
            assert_eq!(attributes(&scheduler).is_ok(), valid, "{json}");
        }
    }
}

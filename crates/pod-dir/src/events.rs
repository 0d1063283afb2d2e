//! `events`: what happened to the pod, one JSON line for each occurrence that is told, the last line of a name counts.
//! The correlation is client-go's: similar events are combined, equal ones counted, floods dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use killick_pod::event::Record;
use killick_pod::time::Wall;
use serde::{Deserialize, Serialize};

use crate::file::{Durability, Error, read_bounded, write_whole};
use crate::timestamp;

/// The API server forgets an event after this time.
pub const EVENT_SECONDS_MAX: i64 = 3600;
/// A file larger than this is rewritten with the last word on each event.
pub const EVENTS_BYTES_MAX: u64 = 256 << 10;
/// Most events that survive a rewrite.
pub const EVENTS_MAX: usize = 400;
/// The API server cuts a message here.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// So many distinct messages of one reason within the interval are combined.
const AGGREGATE_MESSAGES: usize = 10;
const AGGREGATE_INTERVAL_SECONDS: i64 = 600;
/// Bucket of the spam filter: so many at once, then one each 300 s.
const SPAM_BURST: f64 = 25.0;
const SPAM_REFILL_SECONDS: f64 = 300.0;
/// Most keys that each of the correlator's memories holds.
const CACHE_MAX: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredEvent {
    /// `<pod>.<hexadecimal nanoseconds>`.
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub reason: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field_path: String,
    pub component: String,
    pub host: String,
    pub first_timestamp: String,
    pub last_timestamp: String,
    pub count: u32,
}

/// What was seen so far, in memory; pure.
#[derive(Debug)]
pub struct Correlator {
    pod_name: String,
    host: String,
    groups: HashMap<GroupKey, Group>,
    seen: HashMap<String, StoredEvent>,
    buckets: HashMap<String, Bucket>,
    made: u64,
}

/// Component, type, reason: the object and the host are this pod's and this node's.
type GroupKey = (String, bool, String);

#[derive(Debug)]
struct Group {
    messages: BTreeSet<String>,
    last: Wall,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    last: Wall,
}

impl Correlator {
    pub fn new(pod_name: &str, host: &str) -> Correlator {
        Correlator {
            pod_name: pod_name.to_owned(),
            host: host.to_owned(),
            groups: HashMap::new(),
            seen: HashMap::new(),
            buckets: HashMap::new(),
            made: 0,
        }
    }

    /// What is to be stored, if anything: a new event, or a known name with a higher count.
    pub fn observe(&mut self, record: &Record, now: Wall) -> Option<StoredEvent> {
        let (message, key) = self.aggregate(record, now);
        let event = self.count(record, message, key, now);
        // client-go counts before it filters: a dropped occurrence shows in the count of the next one that is told.
        self.takes_token(&record.component, now).then_some(event)
    }

    /// The message to tell, and the key under which equal ones are counted.
    fn aggregate(&mut self, record: &Record, now: Wall) -> (String, String) {
        let group_key: GroupKey = (record.component.clone(), record.warning, record.reason.clone());
        make_room(&mut self.groups, |group| group.last.0);
        let group = self
            .groups
            .entry(group_key)
            .and_modify(|group| {
                if now.0 - group.last.0 > AGGREGATE_INTERVAL_SECONDS {
                    group.messages.clear();
                }
            })
            .or_insert_with(|| Group { messages: BTreeSet::new(), last: now });
        group.messages.insert(record.message.clone());
        group.last = now;
        if group.messages.len() < AGGREGATE_MESSAGES {
            let key = [&record.component, kind(record), &record.reason, &record.field_path, &record.message];
            return (record.message.clone(), key.join("\0"));
        }
        // Bounded: one message goes for the one that came.
        while group.messages.len() >= AGGREGATE_MESSAGES {
            group.messages.pop_first();
        }
        let key = [&record.component, kind(record), &record.reason].join("\0");
        (format!("(combined from similar events): {}", record.message), key)
    }

    fn count(&mut self, record: &Record, message: String, key: String, now: Wall) -> StoredEvent {
        let mut message = message;
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        let stamp = timestamp::text(now);
        if let Some(known) = self.seen.get_mut(&key) {
            known.count = known.count.saturating_add(1);
            known.last_timestamp = stamp;
            known.message = message;
            return known.clone();
        }
        make_room(&mut self.seen, |event| timestamp::parse(&event.last_timestamp).unwrap_or_default().0);
        self.made += 1;
        let nanos = (now.0.max(0) as u64).saturating_mul(1_000_000_000).saturating_add(self.made);
        let event = StoredEvent {
            name: format!("{}.{nanos:x}", self.pod_name),
            kind: kind(record).to_owned(),
            reason: record.reason.clone(),
            message,
            field_path: record.field_path.clone(),
            component: record.component.clone(),
            host: self.host.clone(),
            first_timestamp: stamp.clone(),
            last_timestamp: stamp,
            count: 1,
        };
        self.seen.insert(key, event.clone());
        event
    }

    fn takes_token(&mut self, component: &str, now: Wall) -> bool {
        make_room(&mut self.buckets, |bucket| bucket.last.0);
        let bucket = self.buckets.entry(component.to_owned()).or_insert(Bucket { tokens: SPAM_BURST, last: now });
        let passed = (now.0 - bucket.last.0).max(0) as f64;
        bucket.tokens = (bucket.tokens + passed / SPAM_REFILL_SECONDS).min(SPAM_BURST);
        bucket.last = now;
        let takes = bucket.tokens >= 1.0;
        if takes {
            bucket.tokens -= 1.0;
        }
        takes
    }

    /// Takes over what an earlier shim stored, so that counts go on.
    fn remember(&mut self, event: StoredEvent) {
        let combined = event.message.starts_with("(combined from similar events): ");
        let key = if combined {
            [event.component.as_str(), &event.kind, &event.reason].join("\0")
        } else {
            [event.component.as_str(), &event.kind, &event.reason, &event.field_path, &event.message].join("\0")
        };
        self.made += 1;
        self.seen.insert(key, event);
    }
}

fn kind(record: &Record) -> &'static str {
    if record.warning { "Warning" } else { "Normal" }
}

/// Makes place for one more key by dropping the one that was used longest ago.
fn make_room<K: Clone + Eq + std::hash::Hash, V>(cache: &mut HashMap<K, V>, used: impl Fn(&V) -> i64) {
    if cache.len() < CACHE_MAX {
        return;
    }
    if let Some(oldest) = cache.iter().min_by_key(|(_, value)| used(value)).map(|(key, _)| key.clone()) {
        cache.remove(&oldest);
    }
}

/// The shim's pen.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    correlator: Correlator,
}

impl EventLog {
    /// Goes on from what is there; a file that cannot be read is begun anew.
    pub fn open(path: PathBuf, pod_name: &str, host: &str) -> EventLog {
        let mut correlator = Correlator::new(pod_name, host);
        for event in latest(&read_bounded(&path).unwrap_or_default()) {
            correlator.remember(event);
        }
        EventLog { path, correlator }
    }

    /// Correlates and appends, without fsync. What was dropped as spam is no error.
    pub fn record(&mut self, record: &Record, now: Wall) -> io::Result<()> {
        let Some(event) = self.correlator.observe(record, now) else { return Ok(()) };
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(&line)?;
        if file.metadata()?.len() > EVENTS_BYTES_MAX {
            self.compact(now).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn compact(&self, now: Wall) -> Result<(), Error> {
        let events = read(&self.path, now)?;
        let mut bytes = Vec::new();
        for event in &events[events.len().saturating_sub(EVENTS_MAX)..] {
            if serde_json::to_writer(&mut bytes, event).is_ok() {
                bytes.push(b'\n');
            }
        }
        write_whole(&self.path, &bytes, 0o600, Durability::Volatile)
    }
}

/// The last word on each event, none older than an hour, oldest last occurrence first.
pub fn read(path: &Path, now: Wall) -> Result<Vec<StoredEvent>, Error> {
    let bytes = match read_bounded(path) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut events = latest(&bytes);
    events.retain(|event| {
        timestamp::parse(&event.last_timestamp).is_some_and(|last| now.0 - last.0 <= EVENT_SECONDS_MAX)
    });
    events.sort_by(|a, b| a.last_timestamp.cmp(&b.last_timestamp));
    Ok(events)
}

/// The last line of each name, in the order in which the last lines were written; torn and odd lines are skipped.
fn latest(bytes: &[u8]) -> Vec<StoredEvent> {
    let mut last: BTreeMap<String, (usize, StoredEvent)> = BTreeMap::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if let Ok(event) = serde_json::from_slice::<StoredEvent>(line) {
            last.insert(event.name.clone(), (number, event));
        }
    }
    let mut events: Vec<_> = last.into_values().collect();
    events.sort_by_key(|(number, _)| *number);
    events.into_iter().map(|(_, event)| event).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(reason: &str, message: &str) -> Record {
        Record {
            warning: true,
            reason: reason.into(),
            message: message.into(),
            field_path: "spec.containers{web}".into(),
            component: "kubelet".into(),
        }
    }

    #[test]
    fn equal_events_are_counted_and_keep_their_first_time() {
        let mut correlator = Correlator::new("web", "node");
        let first = correlator.observe(&record("Unhealthy", "no"), Wall(100)).unwrap();
        let second = correlator.observe(&record("Unhealthy", "no"), Wall(130)).unwrap();
        let other = correlator.observe(&record("Unhealthy", "other"), Wall(130)).unwrap();
        assert_eq!((first.count, second.count, other.count), (1, 2, 1));
        assert_eq!(first.name, second.name);
        assert_ne!(first.name, other.name);
        assert_eq!(second.first_timestamp, timestamp::text(Wall(100)));
        assert_eq!(second.last_timestamp, timestamp::text(Wall(130)));
    }

    #[test]
    fn the_tenth_distinct_message_of_a_reason_is_combined() {
        let mut correlator = Correlator::new("web", "node");
        for number in 0..9 {
            let event = correlator.observe(&record("Unhealthy", &format!("m{number}")), Wall(100)).unwrap();
            assert_eq!(event.message, format!("m{number}"));
        }
        let combined = correlator.observe(&record("Unhealthy", "m9"), Wall(101)).unwrap();
        assert_eq!(combined.message, "(combined from similar events): m9");
        let again = correlator.observe(&record("Unhealthy", "m10"), Wall(102)).unwrap();
        assert_eq!((again.name, again.count), (combined.name, 2));
        assert_eq!(again.message, "(combined from similar events): m10");
        // Ten quiet minutes later it begins anew.
        let fresh = correlator.observe(&record("Unhealthy", "m11"), Wall(703)).unwrap();
        assert_eq!(fresh.message, "m11");
    }

    #[test]
    fn a_flood_is_dropped_after_25_and_one_more_passes_each_five_minutes() {
        let mut correlator = Correlator::new("web", "node");
        let told = (0..60).filter(|_| correlator.observe(&record("BackOff", "no"), Wall(100)).is_some()).count();
        assert_eq!(told, 25);
        assert!(correlator.observe(&record("BackOff", "no"), Wall(399)).is_none());
        let event = correlator.observe(&record("BackOff", "no"), Wall(400)).unwrap();
        assert_eq!(event.count, 62);
        // Another source has a bucket of its own.
        let scheduled = Record { component: "default-scheduler".into(), ..record("Scheduled", "yes") };
        assert!(correlator.observe(&scheduled, Wall(400)).is_some());
    }

    #[test]
    fn counts_go_on_after_a_restart_of_the_shim_and_torn_lines_are_skipped() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("events");
        for second in 0..3 {
            let mut log = EventLog::open(path.clone(), "web", "node");
            log.record(&record("Unhealthy", "no"), Wall(100 + second)).unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.extend_from_slice(b"{\"name\": torn\n");
            std::fs::write(&path, bytes).unwrap();
        }
        let events = read(&path, Wall(200)).unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].count, 3);
        assert_eq!(read(&path, Wall(102 + EVENT_SECONDS_MAX + 1)).unwrap(), []);
    }

    #[test]
    fn the_file_stays_within_its_limit() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("events");
        let mut log = EventLog::open(path.clone(), "web", "node");
        let text = "x".repeat(900);
        for number in 0..400 {
            // Far enough apart for the spam filter.
            log.record(&record("Unhealthy", &text), Wall(1000 + number * 300)).unwrap();
        }
        assert!(std::fs::metadata(&path).unwrap().len() <= EVENTS_BYTES_MAX);
        assert_eq!(read(&path, Wall(1000 + 399 * 300)).unwrap()[0].count, 400);
    }
}

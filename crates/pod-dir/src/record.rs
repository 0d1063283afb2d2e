//! `record`: every probe's result, one JSON line each, bounded: the file and one older half.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use killick_pod::spec::ProbeKind;
use serde::{Deserialize, Serialize};

use crate::file::{Error, read_bounded};

/// When the file has this size it becomes the older half, and the half before it goes.
pub const RECORD_BYTES_MAX: u64 = 256 << 10;
/// Longest message that is kept of one result.
pub const MESSAGE_BYTES_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeRecord {
    /// RFC 3339 with nanoseconds.
    pub time: String,
    pub container: String,
    pub attempt: u32,
    pub kind: ProbeKind,
    /// `Success`, `Warning`, `Failure` or `Unknown`.
    pub outcome: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default)]
    pub duration_ms: u64,
}

/// Appends one result, without fsync.
pub fn append(path: &Path, record: &ProbeRecord) -> io::Result<()> {
    let mut record = record.clone();
    record.message.truncate(record.message.floor_char_boundary(MESSAGE_BYTES_MAX));
    let mut line = serde_json::to_vec(&record)?;
    line.push(b'\n');
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if file.metadata()?.len() >= RECORD_BYTES_MAX {
        fs::rename(path, older(path))?;
        file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    }
    file.write_all(&line)
}

/// All results that are still there, oldest first; lines that cannot be read are skipped.
pub fn read(path: &Path) -> Result<Vec<ProbeRecord>, Error> {
    let mut records = Vec::new();
    for part in [older(path), path.to_owned()] {
        match read_bounded(&part) {
            Ok(bytes) => {
                records.extend(bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(records)
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_keeps_the_newest_results_within_its_limit() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("record");
        let mut record = ProbeRecord {
            time: "2024-01-02T03:04:05.000000000Z".into(),
            container: "web".into(),
            attempt: 0,
            kind: ProbeKind::Liveness,
            outcome: "Failure".into(),
            message: "é".repeat(2000),
            duration_ms: 3,
        };
        for number in 0..1000 {
            record.attempt = number;
            append(&path, &record).unwrap();
        }
        let records = read(&path).unwrap();
        assert_eq!(records.last().unwrap().attempt, 999);
        assert!(records.len() > 200 && records.len() < 1000);
        assert!(records[0].message.len() <= MESSAGE_BYTES_MAX);
        let size: u64 =
            fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(size < 2 * RECORD_BYTES_MAX + 4096);
        fs::write(&path, b"half a li").unwrap();
        assert!(!read(&path).unwrap().is_empty());
    }
}

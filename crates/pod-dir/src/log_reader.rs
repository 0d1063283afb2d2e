//! Reading a container's log: records out of the CRI form, from the newest file, also while it grows and rotates.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::log::{LINE_BYTES_MAX, rotated};
use crate::timestamp;

/// Longest physical line that is read; a longer one is not ours and is skipped.
const PHYSICAL_LINE_BYTES_MAX: usize = LINE_BYTES_MAX + 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// As it stands in the file.
    pub time: String,
    pub stderr: bool,
    /// Continued by the next record of the same stream: no newline belongs after it.
    pub partial: bool,
    pub content: Vec<u8>,
}

impl Record {
    /// `None` for a line that is not in CRI's form.
    pub fn parse(line: &[u8]) -> Option<Record> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(fields.next()?).ok()?;
        let stream = fields.next()?;
        let tag = fields.next()?.split(|byte| *byte == b':').next()?;
        let content = fields.next()?;
        timestamp::parse_nanos(time)?;
        let stderr = match stream {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        let partial = match tag {
            b"P" => true,
            b"F" => false,
            _ => return None,
        };
        Some(Record { time: time.to_owned(), stderr, partial, content: content.to_owned() })
    }

    pub fn nanos(&self) -> i128 {
        timestamp::parse_nanos(&self.time).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// So many physical records from the end.
    pub tail: Option<usize>,
    /// None older than this (inclusive), in nanoseconds since the epoch.
    pub since_nanos: Option<i128>,
}

/// Reads one log file on, over its rotations.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    file: Option<BufReader<File>>,
    inode: u64,
    /// The beginning of a line whose end is not written yet.
    torn: Vec<u8>,
    since_nanos: Option<i128>,
}

impl LogReader {
    pub fn new(path: &Path) -> LogReader {
        LogReader { path: path.to_owned(), file: None, inode: 0, torn: Vec::new(), since_nanos: None }
    }

    /// What is there now, by the selection. A log that does not exist yet is empty.
    pub fn begin(&mut self, selection: &Selection) -> io::Result<Vec<Record>> {
        self.since_nanos = selection.since_nanos;
        if !self.open_current()? {
            return Ok(Vec::new());
        }
        let mut kept = VecDeque::new();
        while let Some(record) = self.next_record()? {
            kept.push_back(record);
            if selection.tail.is_some_and(|tail| kept.len() > tail) {
                kept.pop_front();
            }
        }
        Ok(kept.into())
    }

    /// The next whole record, or `None` at the end of the file. After a rotation it goes on in the new file.
    pub fn next_record(&mut self) -> io::Result<Option<Record>> {
        loop {
            let Some(line) = self.next_line()? else {
                if self.move_on()? {
                    continue;
                }
                return Ok(None);
            };
            if let Some(record) = Record::parse(&line)
                && self.since_nanos.is_none_or(|since| record.nanos() >= since)
            {
                return Ok(Some(record));
            }
        }
    }

    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = &mut self.file else { return Ok(None) };
        let room = (PHYSICAL_LINE_BYTES_MAX + 1).saturating_sub(self.torn.len());
        file.by_ref().take(room as u64).read_until(b'\n', &mut self.torn)?;
        if self.torn.last() == Some(&b'\n') {
            self.torn.pop();
            return Ok(Some(std::mem::take(&mut self.torn)));
        }
        if self.torn.len() > PHYSICAL_LINE_BYTES_MAX {
            // Not ours: the rest of it is read as further lines, none of which parses.
            return Ok(Some(std::mem::take(&mut self.torn)));
        }
        Ok(None)
    }

    /// At the end of a file: is there a newer one to go on in? Files in between, if several rotations were missed, come
    /// in their order.
    fn move_on(&mut self) -> io::Result<bool> {
        if self.file.is_none() {
            return self.open_current();
        }
        let mut files = rotated(&self.path).unwrap_or_default();
        files.push(self.path.clone());
        let inodes: Vec<Option<u64>> =
            files.iter().map(|file| std::fs::metadata(file).ok().map(|facts| facts.ino())).collect();
        let next = match inodes.iter().position(|inode| *inode == Some(self.inode)) {
            Some(place) if place + 1 < files.len() => place + 1,
            Some(_) => return Ok(false),
            // Ours was removed: the oldest that is left.
            None => 0,
        };
        // Between the look and the rename some lines may have gone to our old file: read it out first.
        if let Some(file) = &mut self.file {
            let here = file.stream_position()?;
            if file.get_ref().metadata()?.len() > here {
                return Ok(true);
            }
        }
        self.torn.clear();
        self.open_file(&files[next].clone())
    }

    fn open_current(&mut self) -> io::Result<bool> {
        self.open_file(&self.path.clone())
    }

    fn open_file(&mut self, path: &Path) -> io::Result<bool> {
        match File::open(path) {
            Ok(mut file) => {
                self.inode = file.metadata()?.ino();
                file.seek(SeekFrom::Start(0))?;
                self.file = Some(BufReader::new(file));
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Appends what kubectl prints of a record. `at_line_start` is the caller's memory from record to record: with
/// timestamps they stand only where a logical line begins.
pub fn render(record: &Record, timestamps: bool, at_line_start: bool, out: &mut Vec<u8>) {
    if timestamps && at_line_start {
        out.extend_from_slice(record.time.as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(&record.content);
    if !record.partial {
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::log::LogFile;

    fn line(second: i64, text: &str) -> String {
        format!("{} stdout F {text}\n", timestamp::text_nanos(i128::from(second) * 1_000_000_000))
    }

    fn contents(records: &[Record]) -> Vec<String> {
        records.iter().map(|record| String::from_utf8_lossy(&record.content).into_owned()).collect()
    }

    #[test]
    fn tail_and_since_select_records() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("0.log");
        fs::write(&path, (0..5).map(|second| line(second, &format!("l{second}"))).collect::<String>()).unwrap();
        let read = |selection: Selection| contents(&LogReader::new(&path).begin(&selection).unwrap());
        assert_eq!(read(Selection::default()).len(), 5);
        assert_eq!(read(Selection { tail: Some(2), since_nanos: None }), ["l3", "l4"]);
        assert_eq!(read(Selection { tail: Some(0), since_nanos: None }).len(), 0);
        assert_eq!(read(Selection { tail: None, since_nanos: Some(3_000_000_000) }), ["l3", "l4"]);
    }

    #[test]
    fn following_takes_torn_lines_whole_and_goes_over_rotations() {
        let scratch = tempfile::tempdir().unwrap();
        let mut log = LogFile::open_with_limit(scratch.path(), 0, 60).unwrap();
        let path = scratch.path().join("0.log");
        let mut reader = LogReader::new(&path);
        assert!(reader.begin(&Selection::default()).unwrap().is_empty());
        let whole = line(1, "first");
        let (a, b) = whole.split_at(20);
        log.write(a.as_bytes(), 0).unwrap();
        assert_eq!(reader.next_record().unwrap(), None);
        log.write(b.as_bytes(), 0).unwrap();
        assert_eq!(reader.next_record().unwrap().unwrap().content, b"first");
        for number in 0..4 {
            log.write(line(2, &format!("n{number}")).as_bytes(), 2_000_000_000).unwrap();
        }
        let mut rest = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            rest.push(record);
        }
        assert_eq!(contents(&rest), ["n0", "n1", "n2", "n3"]);
    }

    #[test]
    fn what_is_not_in_the_form_is_skipped() {
        for bad in ["", "x", "2024-01-02T03:04:05Z stdout F", "2024-01-02T03:04:05Z nowhere F x", "later stdout F x"] {
            assert_eq!(Record::parse(bad.as_bytes()), None, "{bad}");
        }
        let record = Record::parse(b"2024-01-02T03:04:05Z stderr P:x:y a b").unwrap();
        assert_eq!((record.stderr, record.partial, record.content.as_slice()), (true, true, b"a b".as_slice()));
    }

    #[test]
    fn timestamps_stand_where_a_logical_line_begins() {
        let piece = Record { time: "T".into(), stderr: false, partial: true, content: b"a".to_vec() };
        let end = Record { partial: false, content: b"b".to_vec(), ..piece.clone() };
        let mut out = Vec::new();
        render(&piece, true, true, &mut out);
        render(&end, true, false, &mut out);
        assert_eq!(out, b"T ab\n");
    }
}

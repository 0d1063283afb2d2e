//! `exits`: what keep reaped, one line each: `pid starttime status`, the status as `wait` gives it.

use std::path::Path;

use crate::file::{Error, read_bounded};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks after boot. With the pid it names one process for ever.
    pub start_time: u64,
    /// As `waitpid` reports it.
    pub status: i32,
}

impl Exit {
    /// 0–255; a death by signal is 128 + signal.
    pub fn code(&self) -> i32 {
        match self.status & 0x7f {
            0 => self.status >> 8 & 0xff,
            signal => 128 + signal,
        }
    }
}

/// All whole lines, oldest first, those included that keep has put aside (`exits.old`); a torn last line (keep died
/// while writing) and anything odd is skipped.
pub fn read(path: &Path) -> Result<Vec<Exit>, Error> {
    let mut exits = Vec::new();
    for part in [path.with_extension("old"), path.to_owned()] {
        match read_bounded(&part) {
            Ok(bytes) => exits.extend(parse(&bytes)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(exits)
}

fn parse(bytes: &[u8]) -> Vec<Exit> {
    let text = String::from_utf8_lossy(bytes);
    text.split_inclusive('\n').filter_map(|line| parse_line(line.strip_suffix('\n')?)).collect()
}

fn parse_line(line: &str) -> Option<Exit> {
    let mut fields = line.split(' ');
    let exit = Exit {
        pid: fields.next()?.parse().ok()?,
        start_time: fields.next()?.parse().ok()?,
        status: fields.next()?.parse().ok()?,
    };
    (fields.next().is_none() && exit.pid > 0).then_some(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_aside_comes_first() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("exits");
        assert_eq!(read(&path).unwrap(), []);
        std::fs::write(&path, "2 1 0\n").unwrap();
        std::fs::write(scratch.path().join("exits.old"), "1 1 0\n").unwrap();
        assert_eq!(read(&path).unwrap().iter().map(|exit| exit.pid).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn torn_and_odd_lines_are_skipped() {
        let exits = parse(b"12 3456 256\nrubbish\n-1 2 3\n13 99 9\n14 100 0 0\n15 1");
        assert_eq!(
            exits,
            [Exit { pid: 12, start_time: 3456, status: 256 }, Exit { pid: 13, start_time: 99, status: 9 }]
        );
        assert_eq!(exits[0].code(), 1);
        assert_eq!(exits[1].code(), 137);
    }
}

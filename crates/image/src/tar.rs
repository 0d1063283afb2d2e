//! Reads a tar stream that may be hostile: ustar, GNU and PAX, sparse files, from start to end without seeking.
//!
//! Written here because the memory of each header record must have a limit, and because PAX sparse files, base-256
//! numbers and `SCHILY.xattr` must all be understood. It knows nothing of file systems.

use std::io::{self, Read};

const BLOCK: usize = 512;
/// A long name, or all PAX records of one entry (an xattr may be 64 KiB).
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Extension headers before one entry.
const EXTENSIONS_MAX: usize = 8;
const SPARSE_SEGMENTS_MAX: usize = 100_000;
const PATH_BYTES_MAX: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Char,
    Block,
    Directory,
    Fifo,
}

/// One entry, all extensions applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u64, u64),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of the file as a reader sees it.
    pub(crate) size: u64,
    /// Where the data that follows belongs: offset and length, in order. One segment unless the file is sparse.
    pub(crate) segments: Vec<(u64, u64)>,
}

pub(crate) struct Reader<R> {
    source: R,
    /// Data of the current entry not yet read, and the padding behind it.
    data: u64,
    padding: u64,
}

/// What PAX and GNU extension entries said about the next real one.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
}

#[derive(Default)]
struct PaxSparse {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    real_size: Option<u64>,
    map: Vec<u64>,
    map_seen: bool,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(source: R) -> Reader<R> {
        Reader { source, data: 0, padding: 0 }
    }

    /// The source, to read what follows the archive's end.
    pub(crate) fn into_inner(self) -> R {
        self.source
    }

    /// The data of the entry that `next` gave, as it is stored.
    pub(crate) fn data(&mut self) -> impl Read + '_ {
        Data { reader: self }
    }

    /// The next entry; what was not read of the one before is skipped.
    pub(crate) fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        for _ in 0..=EXTENSIONS_MAX {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = number(&header[124..136]).ok_or_else(|| invalid("size is not a number"))?;
            match header[156] {
                b'x' => {
                    let records = self.extension(size)?;
                    parse_pax(&records, &mut extensions)?;
                }
                // A global header speaks of no file (git writes its commit into one).
                b'g' => drop(self.extension(size)?),
                b'L' => extensions.path = Some(until_nul(&self.extension(size)?).to_vec()),
                b'K' => extensions.link = Some(until_nul(&self.extension(size)?).to_vec()),
                _ => return self.entry(&header, size, extensions).map(Some),
            }
        }
        Err(invalid(format!("more than {EXTENSIONS_MAX} extension headers before one entry (EXTENSIONS_MAX)")))
    }

    fn entry(&mut self, header: &[u8; BLOCK], size: u64, extensions: Extensions) -> io::Result<Entry> {
        let Extensions { path, link, size: pax_size, uid, gid, mtime, xattrs, sparse } = extensions;
        let path = path.unwrap_or_else(|| header_path(header));
        let link = link.unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
        let kind = match header[156] {
            // Archives older than POSIX mark directories only by the slash.
            0 if path.last() == Some(&b'/') => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(invalid(format!("entry of unknown type {:?}", other as char))),
        };
        let stored = match kind {
            Kind::File => pax_size.unwrap_or(size),
            // Some writers repeat the target's size in a link; no data follows.
            Kind::HardLink | Kind::Symlink | Kind::Char | Kind::Block | Kind::Directory | Kind::Fifo => 0,
        };
        self.data = stored;
        self.padding = padding(stored);
        let id = |pax: Option<u64>, field: &[u8], what: &str| {
            let id = pax.or_else(|| number(field)).ok_or_else(|| invalid(format!("{what} is not a number")))?;
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| invalid(format!("{what} {id} is out of range")))
        };
        let device =
            |field: &[u8]| if matches!(kind, Kind::Char | Kind::Block) { number(field).unwrap_or(0) } else { 0 };
        let mut entry = Entry {
            path,
            kind,
            link,
            mode: number(&header[100..108]).ok_or_else(|| invalid("mode is not a number"))? as u32 & 0o7777,
            uid: id(uid, &header[108..116], "uid")?,
            gid: id(gid, &header[116..124], "gid")?,
            mtime: mtime.unwrap_or((signed(&header[136..148]), 0)),
            device: (device(&header[329..337]), device(&header[337..345])),
            xattrs,
            size: stored,
            segments: vec![(0, stored)],
        };
        match header[156] {
            b'S' => self.gnu_sparse(header, &mut entry)?,
            _ if kind == Kind::File => self.pax_sparse(sparse, &mut entry)?,
            _ => {}
        }
        check_names(&entry)?;
        check_segments(&entry, self.data)?;
        Ok(entry)
    }

    /// The old GNU form: the map is in the header and in blocks behind it.
    fn gnu_sparse(&mut self, header: &[u8; BLOCK], entry: &mut Entry) -> io::Result<()> {
        entry.size = number(&header[483..495]).ok_or_else(|| invalid("real size is not a number"))?;
        entry.segments.clear();
        let map = |bytes: &[u8], segments: &mut Vec<(u64, u64)>| -> io::Result<()> {
            for pair in bytes.chunks_exact(24).filter(|pair| pair[0] != 0) {
                match (number(&pair[..12]), number(&pair[12..])) {
                    (Some(offset), Some(length)) => segments.push((offset, length)),
                    _ => return Err(invalid("sparse map is not made of numbers")),
                }
            }
            Ok(())
        };
        map(&header[386..482], &mut entry.segments)?;
        let mut more = header[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            self.source.read_exact(&mut block)?;
            map(&block[..504], &mut entry.segments)?;
            if entry.segments.len() > SPARSE_SEGMENTS_MAX {
                return Err(too_many_segments());
            }
            more = block[504] != 0;
        }
        Ok(())
    }

    /// The three PAX forms; in 1.0 the map is the beginning of the data.
    fn pax_sparse(&mut self, sparse: PaxSparse, entry: &mut Entry) -> io::Result<()> {
        let version_1 = sparse.major == Some(1) && sparse.minor == Some(0);
        if !version_1 && !sparse.map_seen {
            return match sparse.major {
                None | Some(0) => Ok(()),
                Some(major) => Err(invalid(format!("sparse format {major} is not known"))),
            };
        }
        if let Some(name) = sparse.name {
            entry.path = name;
        }
        entry.size = sparse.real_size.ok_or_else(|| invalid("sparse file without its real size"))?;
        let numbers = if version_1 { self.map_in_data()? } else { sparse.map };
        if !numbers.len().is_multiple_of(2) {
            return Err(invalid("sparse map ends in the middle"));
        }
        entry.segments = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        Ok(())
    }

    /// Decimal numbers, one a line, the first their count; padded to a block.
    fn map_in_data(&mut self) -> io::Result<Vec<u64>> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut expected: Option<usize> = None;
        let mut digits: Vec<u8> = Vec::new();
        while expected.is_none_or(|expected| numbers.len() < expected) {
            let mut block = [0; BLOCK];
            if self.data < BLOCK as u64 {
                return Err(invalid("sparse map is longer than the file's data"));
            }
            self.source.read_exact(&mut block)?;
            self.data -= BLOCK as u64;
            for byte in block {
                match (byte, expected) {
                    (_, Some(expected)) if numbers.len() == expected => break,
                    (b'\n', _) => {
                        let value = decimal(&digits).ok_or_else(|| invalid("sparse map is not made of numbers"))?;
                        digits.clear();
                        match expected {
                            None if value > SPARSE_SEGMENTS_MAX as u64 => return Err(too_many_segments()),
                            None => expected = Some(value as usize * 2),
                            Some(_) => numbers.push(value),
                        }
                    }
                    (digit, _) if digits.len() < 20 => digits.push(digit),
                    _ => return Err(invalid("sparse map is not made of numbers")),
                }
            }
        }
        Ok(numbers)
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > EXTENSION_BYTES_MAX {
            return Err(invalid(format!(
                "extension header of {size} bytes; the limit is {EXTENSION_BYTES_MAX} (EXTENSION_BYTES_MAX)"
            )));
        }
        let mut bytes = vec![0; size as usize];
        self.source.read_exact(&mut bytes)?;
        self.padding = padding(size);
        Ok(bytes)
    }

    /// `None` at the end: two empty blocks, or no more bytes.
    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        for _ in 0..2 {
            let mut block = [0; BLOCK];
            let mut filled = 0;
            while filled < BLOCK {
                match self.source.read(&mut block[filled..]) {
                    Ok(0) if filled == 0 => return Ok(None),
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if block.iter().any(|byte| *byte != 0) {
                return match checksum_holds(&block) {
                    true => Ok(Some(block)),
                    false => Err(invalid("header checksum does not hold")),
                };
            }
        }
        Ok(None)
    }

    fn skip(&mut self) -> io::Result<()> {
        let rest = self.data.saturating_add(self.padding);
        self.data = 0;
        self.padding = 0;
        match io::copy(&mut (&mut self.source).take(rest), &mut io::sink())? == rest {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

struct Data<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.reader.data).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        match self.reader.source.read(&mut buffer[..wanted])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.reader.data -= read as u64;
                Ok(read)
            }
        }
    }
}

/// Data is filled up to whole blocks. Any size may be claimed: no sum may overflow.
fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn check_names(entry: &Entry) -> io::Result<()> {
    for name in [&entry.path, &entry.link] {
        if name.len() > PATH_BYTES_MAX {
            return Err(invalid(format!(
                "name of {} bytes; the limit is {PATH_BYTES_MAX} (PATH_BYTES_MAX)",
                name.len()
            )));
        }
        if name.contains(&0) {
            return Err(invalid("name with a NUL byte"));
        }
    }
    Ok(())
}

/// In order, inside the file, and as long together as the data that is stored.
fn check_segments(entry: &Entry, stored: u64) -> io::Result<()> {
    let mut end = 0u64;
    let mut total = 0u64;
    for (offset, length) in &entry.segments {
        let next = offset.checked_add(*length).ok_or_else(|| invalid("sparse map overflows"))?;
        if *offset < end || next > entry.size {
            return Err(invalid("sparse map is not in order or leaves the file"));
        }
        end = next;
        total += length;
    }
    match total == stored {
        true => Ok(()),
        false => Err(invalid("sparse map does not match the data stored")),
    }
}

/// `<length> <key>=<value>\n` again and again; the length counts itself.
fn parse_pax(mut records: &[u8], into: &mut Extensions) -> io::Result<()> {
    let malformed = || invalid("malformed PAX record");
    while !records.is_empty() {
        let space = records.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
        let length = decimal(&records[..space]).ok_or_else(malformed)?;
        let length =
            usize::try_from(length).ok().filter(|n| *n > space + 1 && *n <= records.len()).ok_or_else(malformed)?;
        let (record, rest) = records.split_at(length);
        let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(malformed)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
        pax_record(&record[..equals], &record[equals + 1..], into)?;
        records = rest;
    }
    Ok(())
}

fn pax_record(key: &[u8], value: &[u8], into: &mut Extensions) -> io::Result<()> {
    let count =
        || decimal(value).ok_or_else(|| invalid(format!("PAX {} is not a number", String::from_utf8_lossy(key))));
    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
        into.xattrs.push((name.to_vec(), value.to_vec()));
        return Ok(());
    }
    match key {
        // An empty value takes an earlier record back.
        b"path" => into.path = Some(value.to_vec()).filter(|v| !v.is_empty()),
        b"linkpath" => into.link = Some(value.to_vec()).filter(|v| !v.is_empty()),
        b"size" if !value.is_empty() => into.size = Some(count()?),
        b"uid" if !value.is_empty() => into.uid = Some(count()?),
        b"gid" if !value.is_empty() => into.gid = Some(count()?),
        b"mtime" if !value.is_empty() => into.mtime = Some(pax_time(value)?),
        b"GNU.sparse.major" => into.sparse.major = Some(count()?),
        b"GNU.sparse.minor" => into.sparse.minor = Some(count()?),
        b"GNU.sparse.name" => into.sparse.name = Some(value.to_vec()),
        b"GNU.sparse.size" | b"GNU.sparse.realsize" => into.sparse.real_size = Some(count()?),
        b"GNU.sparse.numblocks" => into.sparse.map_seen = true,
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => into.sparse.map.push(count()?),
        b"GNU.sparse.map" => {
            into.sparse.map_seen = true;
            for number in value.split(|byte| *byte == b',').filter(|_| !value.is_empty()) {
                into.sparse.map.push(decimal(number).ok_or_else(|| invalid("sparse map is not made of numbers"))?);
            }
        }
        _ => {}
    }
    match into.sparse.map.len() > 2 * SPARSE_SEGMENTS_MAX {
        true => Err(too_many_segments()),
        false => Ok(()),
    }
}

/// Seconds with a fraction, perhaps negative.
fn pax_time(value: &[u8]) -> io::Result<(i64, u32)> {
    let bad = || invalid("PAX mtime is not a time");
    let text = std::str::from_utf8(value).map_err(|_| bad())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| bad())?;
    let mut nanos: String = fraction.chars().take(9).collect();
    if !nanos.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    while nanos.len() < 9 {
        nanos.push('0');
    }
    let nanos: u32 = nanos.parse().map_err(|_| bad())?;
    Ok(match whole.starts_with('-') && nanos > 0 {
        true => (seconds.checked_sub(1).ok_or_else(bad)?, 1_000_000_000 - nanos),
        false => (seconds, nanos),
    })
}

/// ustar splits long names into prefix and name; GNU keeps other things where the prefix would be.
fn header_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    let prefix = until_nul(&header[345..500]);
    match &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        true => [prefix, b"/", name].concat(),
        false => name.to_vec(),
    }
}

/// Unsigned by POSIX; old writers summed signed bytes.
fn checksum_holds(block: &[u8; BLOCK]) -> bool {
    let Some(expected) = number(&block[148..156]) else { return false };
    let bytes = || block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
    i64::try_from(expected).is_ok_and(|expected| expected == unsigned || expected == signed)
}

/// Octal with blanks and NULs around it, or base-256 with the top bit set. An empty field is 0.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        // 0xff would be negative.
        let mut value = u64::from(field[0] & 0x7f);
        for byte in &field[1..] {
            value = value.checked_mul(256)?.checked_add(u64::from(*byte))?;
        }
        return Some(value);
    }
    let text = until_nul(field).trim_ascii();
    let mut value = 0u64;
    for byte in text {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value = value.checked_mul(8)?.checked_add(u64::from(digit))?;
    }
    Some(value)
}

/// A time before 1970 is base-256 and negative. What cannot be read is 1970.
fn signed(field: &[u8]) -> i64 {
    match field[0] {
        0xff => field[1..].iter().fold(-1i64, |value, byte| value.wrapping_mul(256) | i64::from(*byte)),
        _ => number(field).and_then(|value| i64::try_from(value).ok()).unwrap_or(0),
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("tar: {}", text.into()))
}

fn too_many_segments() -> io::Error {
    invalid(format!("sparse file of more than {SPARSE_SEGMENTS_MAX} pieces (SPARSE_SEGMENTS_MAX)"))
}

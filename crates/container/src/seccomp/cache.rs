//! Compiled filters on disk: a profile is compiled once for each boot, not once for each container.
//!
//! A file holds everything that the program depends on (compiler version, architecture, kernel, profile), the program
//! and a checksum. What does not read back exactly is compiled again: the cache can be deleted at any time.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use killick_sys::seccomp::{Filter, INSNS_MAX, Insn};
use oci_spec::runtime::{LinuxSeccomp, Spec};

use super::{COMPILER_VERSION, Kernel, SeccompError, compile};

const MAGIC: &[u8] = b"killick seccomp\n";

/// Larger files are not ours: the default profile has 12 kB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The filter for a profile, from `directory` or compiled and put there. The directory must be root's own (0700). A
/// cache that cannot be read or written costs time, nothing else.
pub fn compile_cached(directory: &Path, profile: &LinuxSeccomp, kernel: &Kernel) -> Result<Filter, SeccompError> {
    let key = key(profile, kernel).filter(|_| is_ours_alone(directory));
    let Some(key) = key else { return compile(profile, kernel) };
    let file = directory.join(format!("{:016x}", checksum(&key)));
    if let Some(filter) = read(&file, &key) {
        return Ok(filter);
    }
    let filter = compile(profile, kernel)?;
    let _ = write(&file, &key, &filter);
    Ok(filter)
}

/// The filter of a configuration, None where it has none. `directory` is made if it is missing.
pub fn filter_of(directory: &Path, spec: &Spec) -> Result<Option<Filter>, SeccompError> {
    let Some(profile) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else { return Ok(None) };
    // Without a cache it takes a moment longer.
    let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    compile_cached(directory, profile, &Kernel::detect()).map(Some)
}

/// All that the program depends on. Compared whole, so that no two profiles can pass for each other.
fn key(profile: &LinuxSeccomp, kernel: &Kernel) -> Option<Vec<u8>> {
    let facts = format!("{COMPILER_VERSION} {} {kernel:?}\n", std::env::consts::ARCH);
    let mut key = facts.into_bytes();
    serde_json::to_writer(&mut key, profile).ok()?;
    Some(key)
}

/// The checksum finds accidents. Against a forger there is only this: nobody else can write here.
fn is_ours_alone(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|metadata| metadata.is_dir() && is_closed(&metadata))
}

fn is_closed(metadata: &fs::Metadata) -> bool {
    metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.mode() & 0o022 == 0
}

fn read(file: &Path, key: &[u8]) -> Option<Filter> {
    let mut opened = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(file).ok()?;
    let metadata = opened.metadata().ok()?;
    if !metadata.is_file() || !is_closed(&metadata) || metadata.len() > FILE_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::new();
    opened.read_to_end(&mut bytes).ok()?;
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
    if sum != checksum(body).to_le_bytes() {
        return None;
    }
    let body = body.strip_prefix(MAGIC)?.strip_prefix(u32::try_from(key.len()).ok()?.to_le_bytes().as_slice())?;
    let mut words = body.strip_prefix(key)?.chunks_exact(4);
    if !words.remainder().is_empty() {
        return None;
    }
    let mut word = || words.next().and_then(|word| word.try_into().ok()).map(u32::from_le_bytes);
    let flags = word()?;
    let mut program = Vec::new();
    while let Some(head) = word() {
        program.push(Insn { code: head as u16, jt: (head >> 16) as u8, jf: (head >> 24) as u8, k: word()? });
    }
    (!program.is_empty() && program.len() <= INSNS_MAX).then_some(Filter { program, flags })
}

/// Whole or not at all: a temporary file, then rename.
fn write(file: &Path, key: &[u8], filter: &Filter) -> io::Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend((key.len() as u32).to_le_bytes());
    bytes.extend(key);
    bytes.extend(filter.flags.to_le_bytes());
    for insn in &filter.program {
        let head = u32::from(insn.code) | u32::from(insn.jt) << 16 | u32::from(insn.jf) << 24;
        bytes.extend(head.to_le_bytes());
        bytes.extend(insn.k.to_le_bytes());
    }
    bytes.extend(checksum(&bytes).to_le_bytes());
    let temporary: PathBuf = file.with_extension(std::process::id().to_string());
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut out| out.write_all(&bytes))
        .and_then(|()| fs::rename(&temporary, file));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// FNV-1a: finds what a broken disk or a crash did; nobody but root writes here.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::default_profile;
    use killick_sys::caps::CapSet;

    /// As the file of a forger who knows the format: it is taken from a directory of our own, and only there.
    #[test]
    fn nothing_is_believed_that_another_could_have_written() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let directory = tempfile::tempdir().unwrap();
        let (profile, kernel) = (default_profile(CapSet::EMPTY, true), Kernel::NEWEST);
        let filter = compile_cached(directory.path(), &profile, &kernel).unwrap();
        let file = fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
        let all = Insn { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 };
        let forged = Filter { program: vec![all], flags: 0 };
        write(&file, &key(&profile, &kernel).unwrap(), &forged).unwrap();
        let get = || compile_cached(directory.path(), &profile, &kernel).unwrap();
        assert_eq!(get(), forged, "root's own file in root's own directory");
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(directory.path(), 0o777);
        assert_eq!(get(), filter, "a directory of everybody");
        mode(directory.path(), 0o700);
        mode(&file, 0o666);
        assert_eq!(get(), filter, "a file of everybody");
        assert_eq!(get(), filter, "which was written again");
        fs::rename(&file, directory.path().join("other")).unwrap();
        write(&directory.path().join("other"), &key(&profile, &kernel).unwrap(), &forged).unwrap();
        symlink("other", &file).unwrap();
        assert_eq!(get(), filter, "a link");
    }

    #[test]
    fn a_filter_is_compiled_once_and_a_damaged_file_is_compiled_again() {
        let directory = tempfile::tempdir().unwrap();
        let (profile, kernel) = (default_profile(CapSet::EMPTY, true), Kernel::NEWEST);
        let filter = compile_cached(directory.path(), &profile, &kernel).unwrap();
        assert_eq!(filter, compile(&profile, &kernel).unwrap());
        let file = fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
        let key = key(&profile, &kernel).unwrap();
        assert_eq!(read(&file, &key), Some(filter.clone()));
        let good = fs::read(&file).unwrap();
        for at in (0..good.len()).step_by(97) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&file, &bad).unwrap();
            assert_eq!(read(&file, &key), None, "byte {at}");
        }
        for len in [0, 1, 8, 20, good.len() - 1] {
            fs::write(&file, &good[..len]).unwrap();
            assert_eq!(read(&file, &key), None, "{len} bytes");
        }
        assert_eq!(compile_cached(directory.path(), &profile, &kernel).unwrap(), filter);
        assert_eq!(read(&file, &key), Some(filter));
        let other = Kernel { has_log: false, ..kernel };
        compile_cached(directory.path(), &profile, &other).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "another kernel, another filter");
    }
}

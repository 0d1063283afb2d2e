//! hostPath: the check of each `type`, with kubelet's texts (kubelet.md §7.3). Symbolic links of the host are followed.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use killick_pod::spec::HostPath;

const DIR_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

pub(crate) fn check(source: &HostPath) -> Result<(), String> {
    let path = Path::new(&source.path);
    if source.path.split('/').any(|part| part == "..") {
        return Err(format!("invalid HostPath `{}`: must not contain '..'", source.path));
    }
    if !path.is_absolute() {
        return Err(format!("invalid HostPath `{}`: must be an absolute path", source.path));
    }
    let kind = fs::metadata(path).ok().map(|found| found.file_type());
    let must = |holds: bool, what: &str| match holds {
        true => Ok(()),
        false => Err(format!("hostPath type check failed: {} is not a {what}", source.path)),
    };
    let is = |test: fn(&fs::FileType) -> bool| kind.as_ref().is_some_and(test);
    let made = |result: io::Result<()>| result.map_err(|error| format!("create {}: {error}", source.path));
    match source.kind.as_str() {
        "" => Ok(()),
        "DirectoryOrCreate" if kind.is_none() => made(make_dirs(path)),
        "DirectoryOrCreate" | "Directory" => must(is(fs::FileType::is_dir), "directory"),
        "FileOrCreate" if kind.is_none() => made(make_file(path)),
        "FileOrCreate" | "File" => must(is(fs::FileType::is_file), "file"),
        "Socket" => must(is(FileTypeExt::is_socket), "socket file"),
        "CharDevice" => must(is(FileTypeExt::is_char_device), "character device"),
        "BlockDevice" => must(is(FileTypeExt::is_block_device), "block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

/// `mkdir -p`; each directory that is made gets its mode whatever the umask is.
pub(crate) fn make_dirs(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_dirs(parent)?;
    }
    match fs::DirBuilder::new().mode(DIR_MODE).create(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(DIR_MODE)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

fn make_file(path: &Path) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE))
}

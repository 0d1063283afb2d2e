//! `-f`: files, directories and standard input become objects, or one report of everything that is wrong with them.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use killick_pod::manifest::{self, Object};

use crate::output::{Failure, Result};

/// Longest manifest that is read; the parser names the limit for what is longer.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Most files below one directory.
const FILES_MAX: usize = 1000;
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// An object and the name of the file that it came from, for messages.
#[derive(Debug, Clone)]
pub struct Sourced {
    pub file: String,
    pub object: Object,
}

impl Sourced {
    pub fn kube_namespace(&self) -> &str {
        match &self.object {
            Object::Pod(pod) => &pod.metadata.namespace,
            Object::Data(data) => &data.namespace,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct Files {
    pub names: Vec<String>,
    pub recursive: bool,
}

/// Reads and checks everything. With one problem anywhere there are no objects: the report is the failure.
pub fn read(files: &Files, kube_namespace: Option<&str>, stdin: &mut dyn Read) -> Result<Vec<Sourced>> {
    if files.names.is_empty() {
        return Err(Failure::error("must specify one of -f and -k"));
    }
    let mut texts = Vec::new();
    for name in &files.names {
        texts.extend(read_texts(name, files.recursive, stdin)?);
    }
    let mut objects = Vec::new();
    let mut report = Vec::new();
    for (file, text) in texts {
        match manifest::parse_in(&file, &text, kube_namespace.unwrap_or("default")) {
            Ok(found) => objects.extend(found.into_iter().map(|object| Sourced { file: file.clone(), object })),
            Err(problems) => report.extend(problems.iter().map(ToString::to_string)),
        }
    }
    if !report.is_empty() {
        return Err(Failure::said(report.join("\n")));
    }
    if objects.is_empty() {
        return Err(Failure::error("no objects passed to apply"));
    }
    if let Some(wanted) = kube_namespace
        && let Some(other) = objects.iter().map(Sourced::kube_namespace).find(|given| *given != wanted)
    {
        return Err(Failure::error(format!(
            "the namespace from the provided object \"{other}\" does not match the namespace \"{wanted}\". You must \
             pass '--namespace={other}' to perform this operation."
        )));
    }
    Ok(objects)
}

fn read_texts(name: &str, recursive: bool, stdin: &mut dyn Read) -> Result<Vec<(String, Vec<u8>)>> {
    if name == "-" {
        let text = bounded(stdin).map_err(|error| Failure::error(format!("read stdin: {error}")))?;
        return Ok(vec![("STDIN".to_owned(), text)]);
    }
    if name.starts_with("http://") || name.starts_with("https://") {
        return Err(Failure::error(format!("\"{name}\" is not fetched: download it, and pass the file")));
    }
    let path = Path::new(name);
    let facts = match fs::metadata(path) {
        Ok(facts) => facts,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::error(format!("the path \"{name}\" does not exist")));
        }
        Err(error) => return Err(Failure::error(format!("the path \"{name}\" cannot be accessed: {error}"))),
    };
    if !facts.is_dir() {
        return Ok(vec![(name.to_owned(), read_file(path)?)]);
    }
    let mut paths = Vec::new();
    collect(path, recursive, &mut paths)?;
    if paths.is_empty() {
        return Err(Failure::error(format!(
            "error reading [{name}]: recognized file extensions are [.json .yaml .yml]"
        )));
    }
    paths.into_iter().map(|path| Ok((path.display().to_string(), read_file(&path)?))).collect()
}

fn collect(directory: &Path, recursive: bool, paths: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |error: io::Error| Failure::error(format!("read {}: {error}", directory.display()));
    let mut entries = fs::read_dir(directory).map_err(failed)?.collect::<io::Result<Vec<_>>>().map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // Not through links: a link to a directory above would never end.
        if entry.file_type().map_err(failed)?.is_dir() {
            if recursive {
                collect(&path, recursive, paths)?;
            }
            continue;
        }
        if path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known)) {
            paths.push(path);
        }
        if paths.len() > FILES_MAX {
            return Err(Failure::error(format!("{}: more than {FILES_MAX} manifests", directory.display())));
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    fs::File::open(path)
        .and_then(|mut file| bounded(&mut file))
        .map_err(|error| Failure::error(format!("read {}: {error}", path.display())))
}

/// One byte more than the limit, so that the parser sees that it is passed.
fn bounded(reader: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    reader.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut text)?;
    Ok(text)
}

//! `plan -f`: what `apply` would do here.

use std::io::Read;

use crate::context::Context;
use crate::output::{Failure, Out, Result};
use crate::source::{self, Files};

pub fn plan(
    context: &Context,
    files: &Files,
    kube_namespace: Option<&str>,
    stdin: &mut dyn Read,
    out: &mut Out<'_>,
) -> Result<()> {
    let _ = (context, source::read(files, kube_namespace, stdin)?, out);
    Err(Failure::error("plans are not printed yet"))
}

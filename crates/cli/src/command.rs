//! The command line as one definition: help, completions and parsing come from here. kubectl's flags, kubectl's words
//! for what is wrong with them.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::output::Failure;

pub fn command() -> Command {
    Command::new("killick")
        .about("Killick runs Kubernetes pods on one machine, without a cluster.")
        .long_about(
            "Killick runs Kubernetes pods on one machine, without a cluster and without a daemon.\n\n\
             The manifests, options, output and exit codes are kubectl's (1.35).",
        )
        .version(env!("CARGO_PKG_VERSION"))
        .disable_version_flag(true)
        .infer_long_args(false)
        .subcommand_required(false)
        .subcommands([
            apply(),
            get(),
            describe(),
            logs(),
            exec(),
            delete(),
            wait(),
            events(),
            probes(),
            diff(),
            plan(),
            simulate(),
            image(),
            version(),
            completion(),
            man(),
        ])
        .after_help(
            "Examples:\n  \
             killick image import busybox.tar       # images come from files\n  \
             killick apply -f pod.yaml              # make a pod, or change it\n  \
             killick get pods -o wide               # what runs\n  \
             killick describe pod web               # why it does not\n  \
             killick logs -f web\n  \
             killick exec -it web -- sh\n  \
             killick delete pod web",
        )
}

fn switch(id: &'static str, help: &'static str) -> Arg {
    Arg::new(id)
        .long(id)
        .action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .default_value("false")
        .hide_default_value(true)
        .hide_possible_values(true)
        .value_name("")
        .value_parser(value_parser!(bool))
        .help(help)
}

fn value(id: &'static str, name: &'static str, help: &'static str) -> Arg {
    Arg::new(id).long(id).value_name(name).action(ArgAction::Set).allow_hyphen_values(true).help(help)
}

fn kube_namespace() -> Arg {
    value("namespace", "NAMESPACE", "The namespace to work in (default \"default\")").short('n')
}

fn files(what: &'static str) -> [Arg; 2] {
    [
        Arg::new("filename").short('f').long("filename").value_name("FILE|DIR|-").action(ArgAction::Append).help(what),
        switch("recursive", "With a directory in -f: also the directories below it").short('R'),
    ]
}

fn selector() -> Arg {
    value("selector", "SELECTOR", "Only objects with these labels: a=b, a!=b, 'a in (b,c)', a, !a").short('l')
}

fn field_selector() -> Arg {
    value("field-selector", "SELECTOR", "Only objects with these fields: status.phase=Running")
}

fn all_namespaces() -> Arg {
    switch("all-namespaces", "In all namespaces").short('A')
}

fn container() -> Arg {
    value("container", "NAME", "The container (default: the annotated or the first one)").short('c')
}

fn output(help: &'static str) -> Arg {
    value("output", "FORMAT", help).short('o')
}

fn headings() -> Arg {
    switch("no-headers", "Without the line of headings")
}

fn apply() -> Command {
    Command::new("apply")
        .about("Make pods, ConfigMaps and Secrets from manifests, or change them")
        .long_about(
            "Make pods, ConfigMaps and Secrets from manifests, or change them.\n\n\
             Everything is read and checked before anything is touched. With one problem in one file nothing is made, \
             and the report names every problem with its line and column.",
        )
        .args(files("The manifests: a file, a directory, or - for standard input (may be repeated)"))
        .arg(kube_namespace())
        .arg(
            value("dry-run", "none|client|server", "Only say what would be done")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("client"),
        )
        .arg(output("Print names only: name"))
        .after_help(
            "Examples:\n  \
             killick apply -f pod.yaml\n  \
             killick apply -f manifests/ -R\n  \
             sed s/v1/v2/ pod.yaml | killick apply -f -",
        )
}

fn get() -> Command {
    Command::new("get")
        .about("Show pods, events, configmaps or secrets")
        .arg(
            Arg::new("resource")
                .value_name("TYPE [NAME] | TYPE/NAME")
                .num_args(0..)
                .help("pods (po), events (ev), configmaps (cm), secrets"),
        )
        .arg(output("wide, json, yaml, name, jsonpath=TEMPLATE, jsonpath-file=FILE or custom-columns=NAME:PATH,…"))
        .arg(switch("watch", "After the list, a line for each change, until interrupted").short('w'))
        .arg(kube_namespace())
        .arg(all_namespaces())
        .arg(selector())
        .arg(field_selector())
        .arg(value("sort-by", "PATH", "Sort by a field: .metadata.creationTimestamp"))
        .arg(headings())
        .arg(switch("show-labels", "A last column with the labels"))
        .arg(switch("show-kind", "The kind in front of each name"))
        .arg(
            Arg::new("label-columns")
                .short('L')
                .long("label-columns")
                .value_name("KEY")
                .action(ArgAction::Append)
                .value_delimiter(',')
                .help("A column for this label"),
        )
        .arg(switch("show-managed-fields", "Accepted; there are none"))
        .arg(switch("ignore-not-found", "That a name is not there is no error"))
        .after_help(
            "Examples:\n  \
             killick get pods -A -o wide\n  \
             killick get pod web -o yaml\n  \
             killick get pod web -o jsonpath='{.status.podIP}'\n  \
             killick get pods -l tier=front -w\n  \
             killick get events -w",
        )
}

fn describe() -> Command {
    Command::new("describe")
        .about("Show everything about a pod, with its events")
        .arg(
            Arg::new("resource")
                .value_name("pod [NAME] | pod/NAME")
                .num_args(0..)
                .help("pod, and the beginnings of names"),
        )
        .arg(kube_namespace())
        .arg(all_namespaces())
        .arg(selector())
        .after_help("Examples:\n  killick describe pod web\n  killick describe pods -l tier=front")
}

fn logs() -> Command {
    Command::new("logs")
        .about("Print what a pod's containers wrote")
        .arg(Arg::new("pod").value_name("POD").help("The pod"))
        .arg(Arg::new("inline-container").value_name("CONTAINER").help("The container"))
        .arg(Arg::new("extra").num_args(0..).hide(true))
        .arg(switch("follow", "Go on as it grows, until the container ends").short('f'))
        .arg(switch("previous", "Of the run before this one").short('p'))
        .arg(container())
        .arg(value("tail", "LINES", "Only so many of the last lines (default -1: all)").value_parser(value_parser!(i64)))
        .arg(value("since", "DURATION", "Only what is younger: 5s, 2m, 3h"))
        .arg(value("since-time", "TIME", "Only what is younger than this time (RFC 3339)"))
        .arg(switch("timestamps", "The time in front of each line"))
        .arg(switch("all-containers", "All containers of the pod"))
        .arg(switch("prefix", "Pod and container in front of each line"))
        .arg(value("limit-bytes", "BYTES", "At most so many bytes").value_parser(value_parser!(i64)))
        .arg(selector())
        .arg(value("max-log-requests", "N", "How many logs a selector may follow at once (default 5)").value_parser(value_parser!(i64)))
        .arg(switch("ignore-errors", "Go on after a log that cannot be followed"))
        .arg(kube_namespace())
        .after_help("Examples:\n  killick logs web\n  killick logs -f --tail=20 web -c app\n  killick logs -p web      # the run before the last restart")
}

fn exec() -> Command {
    Command::new("exec")
        .about("Run a command in a container")
        .arg(Arg::new("pod").value_name("POD").help("The pod"))
        .arg(Arg::new("extra").num_args(0..).hide(true))
        .arg(
            Arg::new("command")
                .value_name("COMMAND")
                .num_args(0..)
                .last(true)
                .allow_hyphen_values(true)
                .help("The command and its arguments, after --"),
        )
        .arg(container())
        .arg(switch("stdin", "Pass standard input on").short('i'))
        .arg(switch("tty", "Standard input is a terminal").short('t'))
        .arg(switch("quiet", "Only the command's own output").short('q'))
        .arg(kube_namespace())
        .override_usage("killick exec [OPTIONS] POD [-c CONTAINER] -- COMMAND [ARGS]...")
        .after_help("Examples:\n  killick exec web -- ls -l /\n  killick exec -it web -c app -- sh")
}

fn delete() -> Command {
    Command::new("delete")
        .about("Delete pods, configmaps or secrets")
        .arg(Arg::new("resource").value_name("TYPE NAME | TYPE/NAME").num_args(0..).help("pod, configmap or secret, and names"))
        .args(files("Delete what these manifests name (may be repeated)"))
        .arg(kube_namespace())
        .arg(value("grace-period", "SECONDS", "Time to end by itself; -1: the pod's own").value_parser(value_parser!(i64)).default_value("-1").hide_default_value(true))
        .arg(switch("now", "A grace of one second"))
        .arg(switch("force", "Kill at once"))
        .arg(switch("wait", "Wait until it is gone (default true)").default_value("true"))
        .arg(value("timeout", "DURATION", "How long to wait (default 0s: a week)"))
        .arg(switch("ignore-not-found", "That a name is not there is no error"))
        .arg(switch("all", "All of the kind in the namespace"))
        .arg(all_namespaces())
        .arg(selector())
        .arg(field_selector())
        .arg(output("Print names only: name"))
        .after_help("Examples:\n  killick delete pod web\n  killick delete -f pod.yaml --grace-period=5\n  killick delete pods --all --now")
}

fn events() -> Command {
    Command::new("events")
        .about("Show what happened, the latest last")
        .arg(value("for", "pod/NAME", "Only of this pod"))
        .arg(
            Arg::new("types")
                .long("types")
                .value_name("TYPE")
                .action(ArgAction::Append)
                .value_delimiter(',')
                .help("Only Normal or Warning ones"),
        )
        .arg(switch("watch", "After the list, a line for each event, until interrupted").short('w'))
        .arg(kube_namespace())
        .arg(all_namespaces())
        .arg(headings())
        .after_help("Examples:\n  killick events --for pod/web\n  killick events --types=Warning -A")
}

fn probes() -> Command {
    Command::new("probes")
        .about("Show what each attempt of a pod's probes found")
        .arg(Arg::new("pod").value_name("POD").required(true).help("The pod"))
        .arg(switch("follow", "Go on as probes are made, until the pod is gone").short('f'))
        .arg(container())
        .arg(headings())
        .arg(kube_namespace())
}

fn plan() -> Command {
    Command::new("plan")
        .about("Show what apply would do on this machine, and do nothing")
        .args(files("The manifests (may be repeated)"))
        .arg(kube_namespace())
}

fn wait() -> Command {
    Command::new("wait")
        .about("Wait until pods are in a condition, there, or gone")
        .arg(Arg::new("resource").value_name("pod NAME | pod/NAME").num_args(0..).help("The pods"))
        .arg(
            value("for", "CONDITION", "condition=Ready[=False], delete, create or jsonpath='{.status.phase}'=Running")
                .required(true),
        )
        .arg(value("timeout", "DURATION", "How long to wait; 0: look once, negative: a week (default 30s)"))
        .arg(switch("all", "All pods of the namespace"))
        .arg(selector())
        .arg(kube_namespace())
        .after_help("Examples:\n  killick wait --for=condition=Ready pod/web --timeout=60s\n  killick wait --for=delete pod web")
}

fn diff() -> Command {
    Command::new("diff")
        .about("Show what apply would change in the pods that are there; exit code 1: something")
        .args(files("The manifests (may be repeated)"))
        .arg(kube_namespace())
}

fn simulate() -> Command {
    let many = |id: &'static str, name: &'static str, help: &'static str| {
        Arg::new(id).long(id).value_name(name).action(ArgAction::Append).help(help)
    };
    Command::new("simulate")
        .about("Live a pod's life by the real rules in a made-up world, in no time; nothing is run")
        .args(files("The manifests (may be repeated)"))
        .arg(many("exit", "CONTAINER=TIME:CODE", "When its runs end: web=30s:1,5s:0"))
        .arg(many("probe-trace", "CONTAINER.PROBE=TRACE", "What a probe finds: web.liveness=ok,fail@30s"))
        .arg(many("on-term", "CONTAINER=WHAT", "What it does when told to end: web=ignore"))
        .arg(value("for", "DURATION", "How much of its life (default 120s)"))
        .arg(kube_namespace())
        .after_help("Example:\n  killick simulate -f pod.yaml --probe-trace web.liveness=ok,fail@30s --for 5m")
}

fn man() -> Command {
    Command::new("man").about("Print the manual page").hide(true)
}

fn image() -> Command {
    let name = |help: &'static str| Arg::new("image").value_name("IMAGE").required(true).help(help);
    Command::new("image")
        .about("Import, list, name and remove images")
        .subcommand_required(false)
        .subcommand(
            Command::new("import")
                .about("Take images from an OCI layout or docker archive, plain or gzip")
                .arg(Arg::new("file").value_name("FILE|-").num_args(0..).help("The archives, - for standard input"))
                .arg(value("name", "IMAGE", "Give the image this name")),
        )
        .subcommand(
            Command::new("ls")
                .alias("list")
                .about("List the images")
                .arg(headings())
                .arg(switch("quiet", "Only the ids").short('q')),
        )
        .subcommand(
            Command::new("tag")
                .about("Give an image another name")
                .arg(name("The image"))
                .arg(Arg::new("target").value_name("NAME").required(true).help("Its other name")),
        )
        .subcommand(
            Command::new("rm")
                .alias("remove")
                .about("Take a name away, and with its last name the image")
                .arg(name("The images").num_args(1..)),
        )
}

fn version() -> Command {
    Command::new("version")
        .about("Print the version")
        .arg(output("json or yaml"))
        .arg(switch("client", "Accepted; there is no server").hide(true))
}

fn completion() -> Command {
    Command::new("completion")
        .about("Print the completion script for a shell")
        .arg(Arg::new("shell").value_name("bash").required(true).help("The shell: bash"))
        .after_help("Example:\n  source <(killick completion bash)")
}

/// clap's help without the mark of a value that a switch may have (`--wait=false`): it would only confuse.
pub fn help_text(text: &str) -> String {
    const MARK: &str = "[=<>]";
    text.replace(MARK, &" ".repeat(MARK.len()))
}

/// Reads one flag made by `switch`.
pub fn is_set(matches: &ArgMatches, id: &str) -> bool {
    matches.get_one::<bool>(id).copied().unwrap_or_default()
}

pub fn text<'a>(matches: &'a ArgMatches, id: &str) -> Option<&'a str> {
    matches.get_one::<String>(id).map(String::as_str)
}

pub fn texts(matches: &ArgMatches, id: &str) -> Vec<String> {
    matches.get_many::<String>(id).into_iter().flatten().cloned().collect()
}

/// What is wrong with the command line, in kubectl's words. Help is no error: it is `Err` with code 0.
pub fn complaint(error: &clap::Error, arguments: &[String]) -> Failure {
    let command = arguments.iter().skip(1).find(|word| !word.starts_with('-')).cloned();
    let known = command.as_deref().is_some_and(|name| self::command().find_subcommand(name).is_some());
    let see = match &command {
        Some(name) if known => format!("See 'killick {name} --help' for usage."),
        _ => "See 'killick --help' for usage.".to_owned(),
    };
    let context = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.first().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    // clap writes `--flag <VALUE>` or `-f, --flag <VALUE>`.
    let flag = context(ContextKind::InvalidArg);
    let flag_name = flag.split([' ', '=', '[']).find(|word| word.starts_with("--")).unwrap_or(&flag).to_owned();
    let text = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Failure { text: help_text(&error.render().to_string()).trim_end().to_owned(), code: 0 };
        }
        ErrorKind::InvalidSubcommand => {
            let name = context(ContextKind::InvalidSubcommand);
            let mut text = format!("unknown command \"{name}\" for \"killick\"");
            if let Some(ContextValue::Strings(similar)) = error.get(ContextKind::SuggestedSubcommand)
                && !similar.is_empty()
            {
                text.push_str("\n\nDid you mean this?");
                for name in similar {
                    text.push_str(&format!("\n\t{name}"));
                }
            }
            return Failure::error(text);
        }
        ErrorKind::UnknownArgument if flag.starts_with("--") => {
            format!("unknown flag: {}", flag.split('=').next().unwrap_or(&flag))
        }
        ErrorKind::UnknownArgument if flag.starts_with('-') => {
            let letter = flag.chars().nth(1).unwrap_or('-');
            let typed = arguments.iter().find(|word| word.starts_with('-') && word.contains(letter)).unwrap_or(&flag);
            format!("unknown shorthand flag: '{letter}' in {typed}")
        }
        ErrorKind::UnknownArgument => format!("unexpected argument \"{flag}\""),
        ErrorKind::InvalidValue if context(ContextKind::InvalidValue).is_empty() => {
            format!("flag needs an argument: {flag_name}")
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = context(ContextKind::InvalidValue);
            let why = match flag_name.as_str() {
                "--tail" | "--grace-period" | "--limit-bytes" | "--max-log-requests" => {
                    format!("strconv.ParseInt: parsing \"{value}\": invalid syntax")
                }
                _ => format!("strconv.ParseBool: parsing \"{value}\": invalid syntax"),
            };
            format!("invalid argument \"{value}\" for \"{flag_name}\" flag: {why}")
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = context(ContextKind::InvalidArg);
            format!("required argument missing: {missing}")
        }
        ErrorKind::ArgumentConflict if !flag.is_empty() => format!("{flag} may be given once"),
        _ => {
            let text = error.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            text.lines().next().unwrap_or_default().to_owned()
        }
    };
    Failure::error(format!("{text}\n{see}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complain(line: &str) -> String {
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let error = command().try_get_matches_from(&arguments).unwrap_err();
        complaint(&error, &arguments).text
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn mistakes_are_worded_as_kubectl_words_them() {
        for (line, text) in [
            ("killick get pods --foo", "error: unknown flag: --foo\nSee 'killick get --help' for usage."),
            ("killick get pods --foo=1", "error: unknown flag: --foo\nSee 'killick get --help' for usage."),
            ("killick get pods -z", "error: unknown shorthand flag: 'z' in -z\nSee 'killick get --help' for usage."),
            ("killick gett", "error: unknown command \"gett\" for \"killick\"\n\nDid you mean this?\n\tget"),
            ("killick frobnicate", "error: unknown command \"frobnicate\" for \"killick\""),
            (
                "killick logs web --tail=x",
                "error: invalid argument \"x\" for \"--tail\" flag: strconv.ParseInt: parsing \"x\": invalid syntax\n\
                 See 'killick logs --help' for usage.",
            ),
            (
                "killick delete pod x --wait=maybe",
                "error: invalid argument \"maybe\" for \"--wait\" flag: strconv.ParseBool: parsing \"maybe\": invalid \
                 syntax\nSee 'killick delete --help' for usage.",
            ),
            ("killick get pods -n", "error: flag needs an argument: --namespace\nSee 'killick get --help' for usage."),
        ] {
            assert_eq!(complain(line), text, "{line}");
        }
    }

    #[test]
    fn flags_take_gos_forms() {
        let matches = |line: &str| command().try_get_matches_from(line.split(' ')).unwrap();
        let (_, exec) = matches("killick exec web -it -c app -- sh -c ls").remove_subcommand().unwrap();
        assert!(is_set(&exec, "stdin") && is_set(&exec, "tty"));
        assert_eq!(texts(&exec, "command"), ["sh", "-c", "ls"]);
        let (_, delete) = matches("killick delete pod x --wait=false --grace-period -1").remove_subcommand().unwrap();
        assert!(!is_set(&delete, "wait"));
        let (_, get) = matches("killick get -oyaml po -n=prod web").remove_subcommand().unwrap();
        assert_eq!((text(&get, "output"), text(&get, "namespace")), (Some("yaml"), Some("prod")));
        assert_eq!(texts(&get, "resource"), ["po", "web"]);
        let (_, get) = matches("killick get pods --watch web").remove_subcommand().unwrap();
        assert!(is_set(&get, "watch"));
        assert_eq!(texts(&get, "resource"), ["pods", "web"]);
        let (_, logs) = matches("killick logs --tail=-1 -f web").remove_subcommand().unwrap();
        assert_eq!(logs.get_one::<i64>("tail"), Some(&-1));
    }
}

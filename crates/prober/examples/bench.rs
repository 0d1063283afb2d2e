//! What a network probe costs, beside the least that the kernel takes for the same: `bench [ROUNDS] [GAP_MS]`.
//!
//! The limit is a blocking client that lives in the server's network namespace; ours sits outside and visits. Both run
//! in turns, in one thread, against one server in another; CPU is that thread's alone. Prints a Markdown table, the
//! raw microseconds go to the file named by BENCH_RAW.
#![allow(clippy::disallowed_methods)] // a server in a second thread
#![allow(clippy::unwrap_used)]

use killick_pod::event::Outcome;
use killick_pod::spec::{Container, Handler};
use killick_prober::exec::{Command, Launcher, Process};
use killick_prober::{Place, probe};
use killick_sys::ns::{self, NamespaceKind};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

struct Nothing;

impl Launcher for Nothing {
    fn launch(&self, _: Command) -> Result<Box<dyn Process + '_>, String> {
        Err("no container here".into())
    }
}

/// Wall and CPU time of one call.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

fn thread_cpu() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(500, |rounds| rounds.parse().unwrap());
    let gap = Duration::from_millis(arguments.next().map_or(0, |gap| gap.parse().unwrap()));
    let netns = pod_netns();
    let port = serve(&netns);
    let container: Container = serde_json::from_value(json!({
        "name": "c", "image": "i", "imagePullPolicy": "Never",
        "terminationMessagePath": "", "terminationMessagePolicy": "File",
    }))
    .unwrap();
    let place = Place {
        netns: Some(netns.as_fd()),
        pod_ip: None,
        container: &container,
        hosts: "",
        resolv_conf: "",
        launcher: &Nothing,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut raw = String::new();
    println!("| probe | limit, wall µs | ours, wall µs | ratio | limit, CPU µs | ours, CPU µs | ratio |");
    println!("|---|---|---|---|---|---|---|");
    let handlers = [
        ("tcpSocket", json!({"tcpSocket": {"port": port}}), connect as fn(u16)),
        ("httpGet", json!({"httpGet": {"path": "/healthz", "port": port, "scheme": "HTTP"}}), get as fn(u16)),
    ];
    for (name, handler, limit) in handlers {
        let handler: Handler = serde_json::from_value(handler).unwrap();
        let (mut least, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            std::thread::sleep(gap);
            let visit = ns::enter(netns.as_fd(), NamespaceKind::Network).unwrap();
            least.push(measure(|| limit(port)));
            drop(visit);
            std::thread::sleep(gap);
            ours.push(measure(|| {
                let outcome = runtime.block_on(probe(&handler, place, TIMEOUT));
                assert_eq!(outcome, Outcome::Success);
            }));
        }
        for (who, costs) in [("limit", &least), ("ours", &ours)] {
            for cost in costs {
                writeln!(raw, "{name} {who} {} {}", cost.wall.as_nanos() / 1000, cost.cpu.as_nanos() / 1000).unwrap();
            }
        }
        let (wall, cpu) = (|cost: &Cost| cost.wall, |cost: &Cost| cost.cpu);
        println!(
            "| {name} | {:.0} | {:.0} | {:.2} | {:.0} | {:.0} | {:.2} |",
            median(&least, wall),
            median(&ours, wall),
            median(&ours, wall) / median(&least, wall),
            median(&least, cpu),
            median(&ours, cpu),
            median(&ours, cpu) / median(&least, cpu),
        );
    }
    if let Some(path) = std::env::var_os("BENCH_RAW") {
        std::fs::write(path, raw).unwrap();
    }
}

fn measure(f: impl FnOnce()) -> Cost {
    let (wall, cpu) = (Instant::now(), thread_cpu());
    f();
    Cost { wall: wall.elapsed(), cpu: thread_cpu() - cpu }
}

/// Microseconds.
fn median(costs: &[Cost], of: impl Fn(&Cost) -> Duration) -> f64 {
    let mut values: Vec<Duration> = costs.iter().map(of).collect();
    values.sort();
    values[values.len() / 2].as_nanos() as f64 / 1000.0
}

fn pod_netns() -> OwnedFd {
    let home = ns::open_own(NamespaceKind::Network).unwrap();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let mut links = killick_sys::netlink::route::RouteSocket::open().unwrap();
    let lo = links.link("lo").unwrap().unwrap();
    links.set_up(lo.index).unwrap();
    let netns = ns::open_own(NamespaceKind::Network).unwrap();
    ns::join(home.as_fd(), NamespaceKind::Network).unwrap();
    netns
}

/// Answers whoever asks; one that only connects is let go.
fn serve(netns: &OwnedFd) -> u16 {
    let listener = ns::with_netns(netns.as_fd(), || TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok((mut stream, _)) = listener.accept() {
            if stream.read(&mut bytes).is_ok_and(|length| length > 0) {
                let _ = stream.write_all(ANSWER);
            }
        }
    });
    port
}

fn connect(port: u16) {
    drop(TcpStream::connect(("127.0.0.1".parse::<std::net::IpAddr>().unwrap(), port)).unwrap());
}

fn get(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1".parse::<std::net::IpAddr>().unwrap(), port)).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = [0; 4096];
    while stream.read(&mut bytes).unwrap() > 0 {}
}

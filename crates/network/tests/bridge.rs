//! The bridge against the real kernel: each test's host is a network namespace of its own. Needs root.

#![allow(clippy::unwrap_used)] // a test

use killick_network::{PODS_MAX, PodNetwork, Settings, garbage, node_ip, setup, teardown};
use killick_sys::ns::{self, NamespaceKind};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(5);

/// This thread's network namespace is the host, until it is dropped.
struct Host {
    home: OwnedFd,
    own: OwnedFd,
    settings: Settings,
    _dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let home = ns::open_own(NamespaceKind::Network).unwrap();
        let own = new_netns();
        ns::join(own.as_fd(), NamespaceKind::Network).unwrap();
        ip("link set lo up");
        // A new namespace inherits it from the machine's.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let dir = tempfile::tempdir().unwrap();
        Host { home, own, settings: Settings::new(dir.path().join("ipam")), _dir: dir }
    }

    /// A link to another host, which is the default gateway; what it answers is what this host reaches.
    fn uplink(&self) -> OwnedFd {
        let outside = new_netns();
        ip("link add eth0 type veth peer name up0");
        ip("addr add 192.168.77.2/24 dev eth0");
        ip("link set eth0 up");
        move_link("up0", &outside);
        ns::with_netns(outside.as_fd(), || {
            ip("link set lo up");
            ip("addr add 192.168.77.1/24 dev up0");
            ip("link set up0 up");
        })
        .unwrap();
        ip("route add default via 192.168.77.1");
        outside
    }

    fn pod(&self, uid: &str) -> (OwnedFd, PodNetwork) {
        let netns = new_netns();
        let network = setup(uid, netns.as_fd(), &self.settings).unwrap();
        assert_eq!(network.warnings, Vec::<String>::new());
        (netns, network)
    }

    fn addresses_given(&self) -> usize {
        let names = std::fs::read_dir(&self.settings.ipam).unwrap();
        names.flatten().filter(|entry| entry.file_name().to_str().unwrap().parse::<Ipv4Addr>().is_ok()).count()
    }

    /// Nothing of ours is left but the empty directory with its lock.
    fn assert_bare(&self) {
        let links = ip("-o link");
        assert!(!links.contains("killick") && !links.contains("vk"), "{links}");
        assert_eq!(run("nft", &["list", "ruleset"]).trim(), "");
        assert_eq!(forwarding(), "0");
        let left: Vec<_> = std::fs::read_dir(&self.settings.ipam)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| name != "lock")
            .collect();
        assert_eq!(left, Vec::<String>::new());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        ns::join(self.home.as_fd(), NamespaceKind::Network).unwrap();
    }
}

fn new_netns() -> OwnedFd {
    let home = ns::open_own(NamespaceKind::Network).unwrap();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let new = ns::open_own(NamespaceKind::Network).unwrap();
    ns::join(home.as_fd(), NamespaceKind::Network).unwrap();
    new
}

/// `ip link set … netns FD` wants a pid or a name: a process that sits there has one.
fn move_link(name: &str, netns: &OwnedFd) {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
    ip(&format!("link set {name} netns {path}"));
}

fn ip(arguments: &str) -> String {
    run("ip", &arguments.split(' ').collect::<Vec<_>>())
}

#[allow(clippy::disallowed_methods)] // a test drives the host's own tools
fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn forwarding() -> String {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim().to_owned()
}

fn listen(netns: &OwnedFd, ip: IpAddr) -> TcpListener {
    ns::with_netns(netns.as_fd(), || TcpListener::bind((ip, 0)).unwrap()).unwrap()
}

/// Connects from `netns`; the server answers with the client's address as it sees it.
fn ask(netns: &OwnedFd, server: &TcpListener) -> IpAddr {
    let to = server.local_addr().unwrap();
    let mut client = ns::with_netns(netns.as_fd(), || connect(to)).unwrap();
    let (mut accepted, peer) = server.accept().unwrap();
    accepted.write_all(peer.ip().to_string().as_bytes()).unwrap();
    drop(accepted);
    let mut seen = String::new();
    client.read_to_string(&mut seen).unwrap();
    seen.parse().unwrap()
}

fn connect(to: SocketAddr) -> TcpStream {
    TcpStream::connect_timeout(&to, CONNECT).unwrap_or_else(|error| panic!("connect {to}: {error}"))
}

#[test]
fn pods_reach_each_other_the_host_and_beyond_and_the_host_reaches_them() {
    let host = Host::new();
    let outside = host.uplink();
    let (a, a_net) = host.pod("uid-a");
    let (b, b_net) = host.pod("uid-b");
    assert_eq!((a_net.ip.to_string().as_str(), b_net.ip.to_string().as_str()), ("10.88.0.2", "10.88.0.3"));

    let in_b = listen(&b, b_net.ip);
    assert_eq!(ask(&a, &in_b), a_net.ip, "pod to pod, unmasked");
    assert_eq!(ask(&host.own, &in_b), a_net.gateway, "host to pod");
    let on_host = listen(&host.own, "192.168.77.2".parse().unwrap());
    assert_eq!(ask(&a, &on_host), a_net.ip, "pod to the host's other address");
    let far = listen(&outside, "192.168.77.1".parse().unwrap());
    assert_eq!(ask(&a, &far).to_string(), "192.168.77.2", "beyond the host pods wear its address");
    let lo = listen(&a, "127.0.0.1".parse().unwrap());
    assert_eq!(ask(&a, &lo).to_string(), "127.0.0.1", "lo is up");

    assert_eq!(teardown("uid-a", &host.settings), Vec::<String>::new());
    assert_eq!(ask(&host.own, &in_b), a_net.gateway, "the other pod stays");
    assert_eq!(teardown("uid-b", &host.settings), Vec::<String>::new());
    host.assert_bare();
    assert_eq!(teardown("uid-b", &host.settings), Vec::<String>::new(), "a second time is no error");
}

#[test]
fn forwarding_that_was_on_stays_on() {
    let host = Host::new();
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    host.pod("uid-a");
    teardown("uid-a", &host.settings);
    assert_eq!(forwarding(), "1");
}

#[test]
fn a_subnet_that_overlaps_a_route_is_refused_and_nothing_is_left() {
    let host = Host::new();
    let _outside = host.uplink();
    ip("route add 10.88.64.0/20 via 192.168.77.1");
    let netns = new_netns();
    let error = setup("uid-a", netns.as_fd(), &host.settings).unwrap_err();
    assert_eq!(
        error,
        "the pods' subnet 10.88.0.0/16 overlaps the route 10.88.64.0/20 via 192.168.77.1 dev eth0; \
         set another \"subnet\""
    );
    host.assert_bare();
}

#[test]
fn a_strangers_bridge_is_not_taken() {
    let host = Host::new();
    ip("link add killick0 type bridge");
    let netns = new_netns();
    let error = setup("uid-a", netns.as_fd(), &host.settings).unwrap_err();
    assert!(error.starts_with("a link killick0 exists and is not ours (bridge); remove it"), "{error}");
    assert!(ip("-o link").contains("killick0"), "and it is still there");
}

#[test]
fn a_set_up_that_fails_late_leaves_nothing() {
    let host = Host::new();
    let netns = new_netns();
    // The pod's link cannot get its name: the veth pair is refused after everything shared is there.
    ns::with_netns(netns.as_fd(), || ip("link add eth0 type bridge")).unwrap();
    let error = setup("uid-a", netns.as_fd(), &host.settings).unwrap_err();
    assert!(error.contains("RTM_NEWLINK(vk") && error.contains("EEXIST"), "{error}");
    host.assert_bare();
    // And later still: the address is refused because the pod has the link's route already.
    let netns = new_netns();
    ns::with_netns(netns.as_fd(), || {
        ip("link add other type bridge");
        ip("link set other up");
        ip("route add default dev other");
    })
    .unwrap();
    let error = setup("uid-a", netns.as_fd(), &host.settings).unwrap_err();
    assert!(error.contains("RTM_NEWROUTE(default via 10.88.0.1)") && error.contains("EEXIST"), "{error}");
    host.assert_bare();
}

#[test]
fn setting_up_again_after_a_crash_takes_the_place_of_what_was_left() {
    let host = Host::new();
    let (first, _) = host.pod("uid-a");
    let (_second, network) = host.pod("uid-a");
    assert_eq!(host.addresses_given(), 1);
    assert_eq!(network.ip.to_string(), "10.88.0.3", "an address rests before it is given again");
    ns::with_netns(first.as_fd(), || assert!(!ip("-o link").contains("eth0"))).unwrap();
    teardown("uid-a", &host.settings);
    host.assert_bare();
}

#[test]
fn what_vanished_pods_left_is_garbage() {
    let host = Host::new();
    let (_a, _) = host.pod("uid-a");
    let (b, b_net) = host.pod("uid-b");
    std::fs::write(host.settings.ipam.join("10.88.0.9"), "").unwrap();
    assert_eq!(garbage(&host.settings, |uid| uid == "uid-b"), Vec::<String>::new());
    assert_eq!(host.addresses_given(), 1);
    ask(&host.own, &listen(&b, b_net.ip));
    assert_eq!(garbage(&host.settings, |_| false), Vec::<String>::new());
    host.assert_bare();
}

#[test]
fn a_crash_before_the_bridge_was_whole_is_repaired() {
    let host = Host::new();
    host.pod("uid-a");
    // As after a crash between the bridge's birth and its alias, and a firewall's flush.
    run("ip", &["link", "set", "killick0", "alias", ""]);
    run("nft", &["flush", "ruleset"]);
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    let (b, b_net) = host.pod("uid-b");
    ask(&host.own, &listen(&b, b_net.ip));
    assert!(run("nft", &["list", "ruleset"]).contains("masquerade"));
    assert_eq!(forwarding(), "1");
    // And with the bridge gone altogether.
    ip("link del killick0");
    let (c, c_net) = host.pod("uid-c");
    ask(&host.own, &listen(&c, c_net.ip));
    assert_eq!(garbage(&host.settings, |_| false), Vec::<String>::new());
    host.assert_bare();
}

#[test]
fn the_rules_are_one_table_and_the_whole_of_it() {
    let host = Host::new();
    host.pod("uid-a");
    let rules = run("nft", &["list", "ruleset"]);
    let words: Vec<&str> = rules.split_whitespace().collect();
    assert_eq!(
        words.join(" "),
        "table ip killick { chain postrouting { type nat hook postrouting priority srcnat; policy accept; \
         ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 ip daddr != 224.0.0.0/4 masquerade } }"
    );
    teardown("uid-a", &host.settings);
}

#[test]
fn a_forward_chain_that_drops_lets_pods_through_and_is_given_back_as_it_was() {
    let host = Host::new();
    let outside = host.uplink();
    run("nft", &["add table inet fw; add chain inet fw onward { type filter hook forward priority 0; policy drop; }"]);
    let before = run("nft", &["list", "ruleset"]);
    let (a, _) = host.pod("uid-a");
    let (_b, _) = host.pod("uid-b");
    let far = listen(&outside, "192.168.77.1".parse().unwrap());
    assert_eq!(ask(&a, &far).to_string(), "192.168.77.2");
    let during = run("nft", &["list", "chain", "inet", "fw", "onward"]);
    assert_eq!(during.matches("comment \"killick killick0\"").count(), 2, "{during}");
    teardown("uid-a", &host.settings);
    teardown("uid-b", &host.settings);
    assert_eq!(run("nft", &["list", "ruleset"]), before);
}

#[test]
fn a_dropping_chain_of_iptables_stays_one_that_iptables_can_read() {
    let host = Host::new();
    let outside = host.uplink();
    run("iptables", &["-P", "FORWARD", "DROP"]);
    run("iptables", &["-A", "FORWARD", "-j", "DROP"]);
    let before = run("iptables", &["-S"]);
    let (a, a_net) = host.pod("uid-a");
    let far = listen(&outside, "192.168.77.1".parse().unwrap());
    assert_eq!(ask(&a, &far).to_string(), "192.168.77.2");
    assert_eq!(
        run("iptables", &["-S", "FORWARD"]).lines().collect::<Vec<_>>(),
        [
            "-P FORWARD DROP",
            "-A FORWARD -i killick0 -m comment --comment \"killick killick0\" -j ACCEPT",
            "-A FORWARD -o killick0 -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment \"killick killick0\" \
             -j ACCEPT",
            "-A FORWARD -j DROP"
        ]
    );
    // Only answers come in: a stranger's own connection is dropped as before.
    let in_pod = listen(&a, a_net.ip);
    let (to, soon) = (in_pod.local_addr().unwrap(), Duration::from_millis(300));
    ns::with_netns(outside.as_fd(), || {
        ip("route add 10.88.0.0/16 via 192.168.77.2");
        assert!(TcpStream::connect_timeout(&to, soon).is_err());
    })
    .unwrap();
    teardown("uid-a", &host.settings);
    assert_eq!(run("iptables", &["-S"]), before);
}

#[test]
fn a_narrow_uplink_narrows_the_pods() {
    let host = Host::new();
    let _outside = host.uplink();
    ip("link set eth0 mtu 1400");
    let (a, _) = host.pod("uid-a");
    let mtu = ns::with_netns(a.as_fd(), || ip("-o link show eth0")).unwrap();
    assert!(mtu.contains("mtu 1400"), "{mtu}");
    teardown("uid-a", &host.settings);
}

#[test]
fn the_bridge_takes_1023_pods_and_refuses_the_next_by_name() {
    let host = Host::new();
    host.pod("uid-a");
    // The others are only remembered: a thousand real links cost this test a minute.
    for index in 1..PODS_MAX as u32 {
        let ip = host.settings.subnet.pod_address(index);
        std::fs::write(host.settings.ipam.join(ip.to_string()), format!("uid-{index}")).unwrap();
    }
    let netns = new_netns();
    let error = setup("uid-b", netns.as_fd(), &host.settings).unwrap_err();
    assert_eq!(error, "bridge killick0 has 1023 pods, as many as a Linux bridge takes; delete one first");
    assert_eq!(garbage(&host.settings, |_| false), Vec::<String>::new());
    host.assert_bare();
}

#[test]
fn a_full_subnet_says_so() {
    let mut host = Host::new();
    host.settings.subnet = "10.99.0.0/30".parse().unwrap();
    host.pod("uid-a");
    let netns = new_netns();
    let error = setup("uid-b", netns.as_fd(), &host.settings).unwrap_err();
    assert_eq!(error, "no free address in 10.99.0.0/30: all 1 are given to pods");
    teardown("uid-a", &host.settings);
    host.assert_bare();
}

#[test]
fn other_settings_while_pods_run_are_refused() {
    let host = Host::new();
    host.pod("uid-a");
    let other = Settings { subnet: "10.99.0.0/24".parse().unwrap(), ..host.settings.clone() };
    let netns = new_netns();
    let error = setup("uid-b", netns.as_fd(), &other).unwrap_err();
    assert_eq!(
        error,
        "pods are running on bridge killick0 with 10.88.0.0/16, the settings say killick0 with 10.99.0.0/24; \
         delete those pods first"
    );
    teardown("uid-a", &other);
    host.assert_bare();
}

#[test]
#[allow(clippy::disallowed_methods)] // several set-ups at once
fn several_pods_set_up_at_once_get_different_addresses() {
    let host = Host::new();
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let (settings, own) = (host.settings.clone(), host.own.try_clone().unwrap());
            std::thread::spawn(move || {
                ns::join(own.as_fd(), NamespaceKind::Network).unwrap();
                let mut seen = Vec::new();
                for round in 0..3 {
                    let uid = format!("uid-{number}-{round}");
                    let netns = new_netns();
                    let network = setup(&uid, netns.as_fd(), &settings).unwrap();
                    seen.push(network.ip);
                    if round < 2 {
                        assert_eq!(teardown(&uid, &settings), Vec::<String>::new());
                    }
                }
                seen[2]
            })
        })
        .collect();
    let mut last: Vec<IpAddr> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    last.sort();
    last.dedup();
    assert_eq!(last.len(), 8);
    assert_eq!(garbage(&host.settings, |_| false), Vec::<String>::new());
    host.assert_bare();
}

#[test]
fn the_nodes_address_is_that_of_the_default_routes_link() {
    let host = Host::new();
    assert_eq!(node_ip(), Ok(None));
    let _outside = host.uplink();
    assert_eq!(node_ip(), Ok(Some("192.168.77.2".parse().unwrap())));
    drop(host);
}

#[test]
fn a_set_up_that_is_killed_anywhere_leaves_nothing_that_garbage_does_not_take() {
    let host = Host::new();
    let (mut killed, mut finished) = (0, 0);
    // From before the lock to after the last step, however slow this host is.
    let mut deadline = Duration::from_micros(200);
    while finished < 2 {
        let (netns, settings) = (new_netns(), host.settings.clone());
        let worker = killick_sys::spawn::worker(deadline, || setup("uid-a", netns.as_fd(), &settings)).unwrap();
        match worker.wait() {
            Ok(_) => finished += 1,
            Err(error) => {
                assert!(error.contains("deadline"), "{error}");
                killed += 1;
            }
        }
        assert_eq!(garbage(&host.settings, |_| false), Vec::<String>::new());
        host.assert_bare();
        deadline = deadline.mul_f64(1.2);
    }
    assert!(killed > 5, "killed only {killed} times");
}

#[test]
fn a_tear_down_that_is_killed_anywhere_is_finished_by_the_next() {
    let host = Host::new();
    let (mut finished, mut deadline) = (0, Duration::from_micros(200));
    while finished < 2 {
        host.pod("uid-a");
        let settings = host.settings.clone();
        let worker = killick_sys::spawn::worker(deadline, || Ok(teardown("uid-a", &settings))).unwrap();
        finished += usize::from(worker.wait().is_ok());
        assert_eq!(teardown("uid-a", &host.settings), Vec::<String>::new());
        host.assert_bare();
        deadline = deadline.mul_f64(1.2);
    }
}

/// Makes `socket(AF_NETLINK, …, NETLINK_NETFILTER)` fail in this thread, as a kernel without nf_tables does.
fn refuse_netfilter() {
    use killick_sys::seccomp::{Filter, Insn};
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let insn = |code, jt, jf, k: u32| Insn { code, jt, jf, k };
    let program = vec![
        insn(LOAD, 0, 0, 0), // the number
        insn(JUMP_IF_EQUAL, 0, 5, libc::SYS_socket as u32),
        insn(LOAD, 0, 0, 16), // the family
        insn(JUMP_IF_EQUAL, 0, 3, libc::AF_NETLINK as u32),
        insn(LOAD, 0, 0, 32), // the protocol
        insn(JUMP_IF_EQUAL, 0, 1, libc::NETLINK_NETFILTER as u32),
        insn(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPROTONOSUPPORT as u32),
        insn(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    Filter { program, flags: 0 }.load().unwrap();
}

#[test]
fn without_nf_tables_pods_run_and_say_what_they_cannot_reach() {
    let host = Host::new();
    let netns = new_netns();
    let settings = host.settings.clone();
    let worker = killick_sys::spawn::worker(Duration::from_secs(20), || {
        refuse_netfilter();
        setup("uid-a", netns.as_fd(), &settings)
    })
    .unwrap();
    let network = worker.wait().unwrap();
    assert_eq!(
        network.warnings,
        ["pods reach this host and each other only: no masquerade: \
          socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC, NetlinkNetFilter): EPROTONOSUPPORT"]
    );
    ask(&host.own, &listen(&netns, network.ip));
    teardown("uid-a", &host.settings);
    host.assert_bare();
}

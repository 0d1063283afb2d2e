//! What a pod reads about names: `/etc/hosts`, `/etc/resolv.conf` and its host name, as kubelet makes them
//! (kubelet.md §6.5). Pure: the node's own files come in as text.

use killick_pod::spec::{DnsOption, DnsPolicy, Pod};
use std::net::IpAddr;

pub const CLUSTER_DOMAIN: &str = "cluster.local";
const HOSTNAME_CHARS_MAX: usize = 63;
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_LINE_CHARS_MAX: usize = 2048;
/// glibc 2.28 aborts on longer ones.
const SEARCH_CHARS_MAX: usize = 253;

/// The kernel's host name in the pod's UTS namespace. With `hostNetwork` it is the node's.
pub fn hostname(pod: &Pod, node_name: &str) -> String {
    if pod.spec.host_network {
        return node_name.to_owned();
    }
    match pod.spec.hostname.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => name.to_owned(),
        None => {
            let cut: String = pod.metadata.name.chars().take(HOSTNAME_CHARS_MAX).collect();
            cut.trim_end_matches(['-', '.']).to_owned()
        }
    }
}

/// `/etc/hosts`, written anew at each start of a container. `node_hosts` is the node's own file, for `hostNetwork`.
pub fn hosts(pod: &Pod, pod_ips: &[IpAddr], node_hosts: &str) -> String {
    let mut text = if pod.spec.host_network {
        format!("# Kubernetes-managed hosts file (host network).\n{node_hosts}")
    } else {
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        let name = hostname(pod, "");
        for ip in pod_ips {
            match pod.spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty()) {
                Some(subdomain) => {
                    let domain = format!("{subdomain}.{}.svc.{CLUSTER_DOMAIN}", pod.metadata.namespace);
                    text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n"));
                }
                None => text.push_str(&format!("{ip}\t{name}\n")),
            }
        }
        text
    };
    if !pod.spec.host_aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in &pod.spec.host_aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
        }
    }
    text
}

/// `/etc/resolv.conf`, and what had to be cut (events `DNSConfigForming`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvConf {
    pub text: String,
    pub cut: Vec<String>,
}

#[derive(Debug, Default)]
struct Dns {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<DnsOption>,
}

/// `ClusterFirst` falls back to the node's file: there is no cluster.
pub fn resolv_conf(pod: &Pod, node_resolv_conf: &str) -> ResolvConf {
    let mut dns = match pod.spec.dns_policy {
        DnsPolicy::None => Dns::default(),
        DnsPolicy::Default | DnsPolicy::ClusterFirst | DnsPolicy::ClusterFirstWithHostNet => {
            Dns::parse(node_resolv_conf)
        }
    };
    if let Some(config) = &pod.spec.dns_config {
        dns.nameservers.extend(config.nameservers.iter().cloned());
        dns.searches.extend(config.searches.iter().cloned());
        for option in &config.options {
            match dns.options.iter_mut().find(|known| known.name == option.name) {
                Some(known) => known.value.clone_from(&option.value),
                None => dns.options.push(option.clone()),
            }
        }
    }
    keep_first(&mut dns.nameservers);
    keep_first(&mut dns.searches);
    let cut = dns.cut_to_limits();
    ResolvConf { text: dns.text(), cut }
}

impl Dns {
    fn parse(text: &str) -> Dns {
        let mut dns = Dns::default();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => dns.nameservers.extend(words.next().map(str::to_owned)),
                // The last search line wins.
                Some("search") => {
                    let bare = |word: &str| if word == "." { word.into() } else { word.trim_end_matches('.').into() };
                    dns.searches = words.map(bare).collect();
                }
                Some("options") => {
                    for word in words {
                        let (name, value) = match word.split_once(':') {
                            Some((name, value)) => (name, Some(value.to_owned())),
                            None => (word, None),
                        };
                        dns.options.retain(|known| known.name != name);
                        dns.options.push(DnsOption { name: name.to_owned(), value });
                    }
                }
                _ => {}
            }
        }
        dns
    }

    fn cut_to_limits(&mut self) -> Vec<String> {
        let mut cut = Vec::new();
        if self.nameservers.len() > NAMESERVERS_MAX {
            self.nameservers.truncate(NAMESERVERS_MAX);
            let line = self.nameservers.join(" ");
            cut.push(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: \
                 {line}"
            ));
        }
        let before = self.searches.len();
        self.searches.truncate(SEARCHES_MAX);
        self.searches.retain(|search| search.len() <= SEARCH_CHARS_MAX);
        while self.searches.join(" ").len() > SEARCH_LINE_CHARS_MAX {
            self.searches.pop();
        }
        if self.searches.len() < before {
            let line = self.searches.join(" ");
            cut.push(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: \
                 {line}"
            ));
        }
        cut
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for nameserver in &self.nameservers {
            text.push_str(&format!("nameserver {nameserver}\n"));
        }
        if !self.options.is_empty() {
            let word = |option: &DnsOption| match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{}:{value}", option.name),
                None => option.name.clone(),
            };
            let words: Vec<String> = self.options.iter().map(word).collect();
            text.push_str(&format!("options {}\n", words.join(" ")));
        }
        text
    }
}

fn keep_first(values: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    values.retain(|value| seen.insert(value.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A pod named `web` with these fields in its spec.
    fn pod(spec: serde_json::Value) -> Pod {
        let mut whole = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {
                "containers": [], "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
                "dnsPolicy": "ClusterFirst",
            },
        });
        for (key, value) in spec.as_object().unwrap() {
            whole["spec"][key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    fn ip() -> Vec<IpAddr> {
        vec!["10.244.0.5".parse().unwrap()]
    }

    #[test]
    fn hosts_is_kubelets_to_the_tab() {
        let head = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n\
                    fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
        assert_eq!(hosts(&pod(json!({})), &ip(), "unused"), format!("{head}10.244.0.5\tweb\n"));
        assert_eq!(
            hosts(&pod(json!({"hostname": "h", "subdomain": "sub"})), &ip(), ""),
            format!("{head}10.244.0.5\th.sub.ns.svc.cluster.local\th\n")
        );
        let aliases = json!({"hostAliases": [{"ip": "10.1.2.3", "hostnames": ["foo.local", "bar.local"]}]});
        assert_eq!(
            hosts(&pod(aliases.clone()), &ip(), ""),
            format!("{head}10.244.0.5\tweb\n\n# Entries added by HostAliases.\n10.1.2.3\tfoo.local\tbar.local\n")
        );
        let mut on_host = pod(aliases);
        on_host.spec.host_network = true;
        assert_eq!(
            hosts(&on_host, &ip(), "127.0.0.1 localhost node\n"),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost node\n\n\
             # Entries added by HostAliases.\n10.1.2.3\tfoo.local\tbar.local\n"
        );
    }

    #[test]
    fn a_host_name_is_the_pods_name_cut_to_a_label() {
        let named = |name: &str, spec| {
            let mut pod = pod(spec);
            pod.metadata.name = name.to_owned();
            hostname(&pod, "node")
        };
        assert_eq!(named("web", json!({})), "web");
        assert_eq!(named("web", json!({"hostname": "other"})), "other");
        assert_eq!(named("web", json!({"hostNetwork": true})), "node");
        assert_eq!(named(&format!("{}-.-x", "a".repeat(60)), json!({})), "a".repeat(60));
    }

    const NODE: &str = "# made by dhcp\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch old\n\
                        search corp.local. lan\noptions edns0 ndots:2 ndots:3\n; end\n";

    #[test]
    fn without_a_cluster_the_nodes_resolv_conf_is_the_pods() {
        for policy in ["ClusterFirst", "ClusterFirstWithHostNet", "Default"] {
            let made = resolv_conf(&pod(json!({"dnsPolicy": policy})), NODE);
            assert_eq!(
                made.text,
                "search corp.local lan\nnameserver 127.0.0.53\nnameserver 10.0.0.1\noptions edns0 ndots:3\n"
            );
            assert_eq!(made.cut, Vec::<String>::new());
        }
        assert_eq!(resolv_conf(&pod(json!({})), "").text, "");
    }

    #[test]
    fn dns_config_adds_and_overrides() {
        let config = json!({
            "nameservers": ["1.1.1.1", "10.0.0.1"], "searches": ["lan", "more"],
            "options": [{"name": "ndots", "value": "5"}, {"name": "rotate"}],
        });
        let merged = resolv_conf(&pod(json!({"dnsPolicy": "Default", "dnsConfig": config})), NODE);
        assert_eq!(
            merged.text,
            "search corp.local lan more\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nnameserver 1.1.1.1\n\
             options edns0 ndots:5 rotate\n"
        );
        let alone = resolv_conf(&pod(json!({"dnsPolicy": "None", "dnsConfig": config})), NODE);
        assert_eq!(alone.text, "search lan more\nnameserver 1.1.1.1\nnameserver 10.0.0.1\noptions ndots:5 rotate\n");
    }

    #[test]
    fn what_exceeds_the_limits_is_cut_and_told() {
        let servers: Vec<String> = (1..=4).map(|n| format!("10.0.0.{n}")).collect();
        let made = resolv_conf(&pod(json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": servers}})), "");
        assert_eq!(made.text, "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n");
        assert_eq!(
            made.cut,
            ["Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: \
              10.0.0.1 10.0.0.2 10.0.0.3"]
        );
        let searching = |searches: Vec<String>| {
            let dns = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": searches}});
            let made = resolv_conf(&pod(dns), "");
            (made.text.lines().next().unwrap().split(' ').count() - 1, made.cut.len())
        };
        assert_eq!(searching((0..32).map(|n| format!("s{n}")).collect()), (32, 0));
        assert_eq!(searching((0..33).map(|n| format!("s{n}")).collect()), (32, 1));
        assert_eq!(searching((0..20).map(|n| format!("{n:0120}")).collect()), (16, 1), "2,048 characters");
        assert_eq!(searching(vec!["x".repeat(254), "y".repeat(253)]), (1, 1));
    }
}

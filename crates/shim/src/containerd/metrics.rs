//! A cgroup's counters as protobuf: `io.containerd.cgroups.v1.Metrics` and `…v2.Metrics` (containerd/cgroups,
//! cgroup1/stats and cgroup2/stats, metrics.proto). The field numbers are the positions in those files.

use killick_container::cgroup::{
    Blkio, BlkioEntry, Io, IoEntry, MemoryEntry, Metrics, Psi, PsiData, Rdma, RdmaEntry, V1Hugetlb, V1Memory,
    V1Metrics, V2Hugetlb, V2Memory, V2Metrics,
};
use prost::encoding::{WireType, double, encode_key, encode_varint, string, uint32, uint64};

use super::proto::Any;

pub fn any(metrics: &Metrics) -> Any {
    match metrics {
        Metrics::V1(metrics) => Any { type_url: "io.containerd.cgroups.v1.Metrics".into(), value: v1(metrics).0 },
        Metrics::V2(metrics) => Any { type_url: "io.containerd.cgroups.v2.Metrics".into(), value: v2(metrics).0 },
    }
}

/// A message being written, field by field; zeros are left out, as proto3 has it.
#[derive(Debug, Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn number(mut self, tag: u32, value: u64) -> Self {
        if value != 0 {
            uint64::encode(tag, &value, &mut self.0);
        }
        self
    }

    fn small(mut self, tag: u32, value: u32) -> Self {
        if value != 0 {
            uint32::encode(tag, &value, &mut self.0);
        }
        self
    }

    fn float(mut self, tag: u32, value: f64) -> Self {
        if value != 0.0 {
            double::encode(tag, &value, &mut self.0);
        }
        self
    }

    fn text(mut self, tag: u32, value: &str) -> Self {
        if !value.is_empty() {
            string::encode(tag, &value.to_owned(), &mut self.0);
        }
        self
    }

    /// Numbers with the tags `first`, `first` + 1 and so on.
    fn numbers(self, first: u32, values: &[u64]) -> Self {
        (first..).zip(values).fold(self, |fields, (tag, value)| fields.number(tag, *value))
    }

    fn message(mut self, tag: u32, message: Fields) -> Self {
        encode_key(tag, WireType::LengthDelimited, &mut self.0);
        encode_varint(message.0.len() as u64, &mut self.0);
        self.0.extend(message.0);
        self
    }

    fn optional(self, tag: u32, message: Option<Fields>) -> Self {
        match message {
            Some(message) => self.message(tag, message),
            None => self,
        }
    }

    fn repeated(self, tag: u32, messages: impl IntoIterator<Item = Fields>) -> Self {
        messages.into_iter().fold(self, |fields, message| fields.message(tag, message))
    }

    /// A packed list.
    fn packed(mut self, tag: u32, values: &[u64]) -> Self {
        if !values.is_empty() {
            uint64::encode_packed(tag, values, &mut self.0);
        }
        self
    }
}

fn v1(metrics: &V1Metrics) -> Fields {
    let V1Metrics { hugetlb, pids, cpu, memory, blkio, rdma: rdma_counters, memory_oom_control } = metrics;
    let cpu = cpu.as_ref().map(|cpu| {
        let usage = Fields::default().numbers(1, &[cpu.total, cpu.kernel, cpu.user]).packed(4, &cpu.per_cpu);
        let throttling = &cpu.throttling;
        let throttling = [throttling.nr_periods, throttling.nr_throttled, throttling.throttled_time];
        Fields::default().message(1, usage).message(2, Fields::default().numbers(1, &throttling))
    });
    let oom = memory_oom_control
        .as_ref()
        .map(|oom| Fields::default().numbers(1, &[oom.oom_kill_disable, oom.under_oom, oom.oom_kill]));
    let huge =
        |huge: &V1Hugetlb| Fields::default().numbers(1, &[huge.usage, huge.max, huge.failcnt]).text(4, &huge.pagesize);
    Fields::default()
        .repeated(1, hugetlb.iter().map(huge))
        .optional(2, pids.map(|pids| Fields::default().numbers(1, &[pids.current, pids.limit])))
        .optional(3, cpu)
        .optional(4, memory.as_ref().map(v1_memory))
        .optional(5, blkio.as_ref().map(v1_blkio))
        .optional(6, rdma_counters.as_ref().map(rdma))
        .optional(9, oom)
}

fn v1_memory(memory: &V1Memory) -> Fields {
    let m = memory;
    let entry =
        |entry: MemoryEntry| Fields::default().numbers(1, &[entry.limit, entry.usage, entry.max, entry.failcnt]);
    Fields::default()
        .numbers(
            1,
            &[
                m.cache,
                m.rss,
                m.rss_huge,
                m.mapped_file,
                m.dirty,
                m.writeback,
                m.pgpgin,
                m.pgpgout,
                m.pgfault,
                m.pgmajfault,
                m.inactive_anon,
                m.active_anon,
                m.inactive_file,
                m.active_file,
                m.unevictable,
                m.hierarchical_memory_limit,
                m.hierarchical_memsw_limit,
                m.total_cache,
                m.total_rss,
                m.total_rss_huge,
                m.total_mapped_file,
                m.total_dirty,
                m.total_writeback,
                m.total_pgpgin,
                m.total_pgpgout,
                m.total_pgfault,
                m.total_pgmajfault,
                m.total_inactive_anon,
                m.total_active_anon,
                m.total_inactive_file,
                m.total_active_file,
                m.total_unevictable,
            ],
        )
        .optional(33, m.usage.map(entry))
        .optional(34, m.swap.map(entry))
        .optional(35, m.kernel.map(entry))
        .optional(36, m.kernel_tcp.map(entry))
}

fn v1_blkio(blkio: &Blkio) -> Fields {
    let entry =
        |entry: &BlkioEntry| Fields::default().text(1, &entry.op).numbers(3, &[entry.major, entry.minor, entry.value]);
    let lists: [&[BlkioEntry]; 8] = [
        &blkio.io_service_bytes_recursive,
        &blkio.io_serviced_recursive,
        &blkio.io_queued_recursive,
        &blkio.io_service_time_recursive,
        &blkio.io_wait_time_recursive,
        &blkio.io_merged_recursive,
        &blkio.io_time_recursive,
        &blkio.sectors_recursive,
    ];
    (1..).zip(lists).fold(Fields::default(), |fields, (tag, list)| fields.repeated(tag, list.iter().map(entry)))
}

fn rdma(rdma: &Rdma) -> Fields {
    let entry = |entry: &RdmaEntry| {
        Fields::default().text(1, &entry.device).small(2, entry.hca_handles).small(3, entry.hca_objects)
    };
    Fields::default().repeated(1, rdma.current.iter().map(entry)).repeated(2, rdma.limit.iter().map(entry))
}

fn v2(metrics: &V2Metrics) -> Fields {
    let V2Metrics { pids, cpu, memory, memory_events, rdma: rdma_counters, io, hugetlb } = metrics;
    let cpu = cpu.as_ref().map(|cpu| {
        let numbers =
            [cpu.usage_usec, cpu.user_usec, cpu.system_usec, cpu.nr_periods, cpu.nr_throttled, cpu.throttled_usec];
        Fields::default().numbers(1, &numbers).optional(7, cpu.psi.as_ref().map(psi))
    });
    let events = memory_events.as_ref().map(|events| {
        Fields::default().numbers(1, &[events.low, events.high, events.max, events.oom, events.oom_kill])
    });
    let huge = |huge: &V2Hugetlb| {
        Fields::default().numbers(1, &[huge.current, huge.max]).text(3, &huge.pagesize).number(4, huge.failcnt)
    };
    Fields::default()
        .optional(1, pids.map(|pids| Fields::default().numbers(1, &[pids.current, pids.limit])))
        .optional(2, cpu)
        .optional(4, memory.as_ref().map(v2_memory))
        .optional(5, rdma_counters.as_ref().map(rdma))
        .optional(6, io.as_ref().map(v2_io))
        .repeated(7, hugetlb.iter().map(huge))
        .optional(8, events)
}

fn v2_memory(memory: &V2Memory) -> Fields {
    let m = memory;
    Fields::default()
        .numbers(
            1,
            &[
                m.anon,
                m.file,
                m.kernel_stack,
                m.slab,
                m.sock,
                m.shmem,
                m.file_mapped,
                m.file_dirty,
                m.file_writeback,
                m.anon_thp,
                m.inactive_anon,
                m.active_anon,
                m.inactive_file,
                m.active_file,
                m.unevictable,
                m.slab_reclaimable,
                m.slab_unreclaimable,
                m.pgfault,
                m.pgmajfault,
                m.workingset_refault,
                m.workingset_activate,
                m.workingset_nodereclaim,
                m.pgrefill,
                m.pgscan,
                m.pgsteal,
                m.pgactivate,
                m.pgdeactivate,
                m.pglazyfree,
                m.pglazyfreed,
                m.thp_fault_alloc,
                m.thp_collapse_alloc,
                m.usage,
                m.usage_limit,
                m.swap_usage,
                m.swap_limit,
                m.max_usage,
                m.swap_max_usage,
            ],
        )
        .optional(38, m.psi.as_ref().map(psi))
}

fn v2_io(io: &Io) -> Fields {
    let entry = |entry: &IoEntry| {
        let numbers = [entry.major, entry.minor, entry.rbytes, entry.wbytes, entry.rios, entry.wios];
        Fields::default().numbers(1, &numbers)
    };
    Fields::default().repeated(1, io.usage.iter().map(entry)).optional(2, io.psi.as_ref().map(psi))
}

fn psi(psi: &Psi) -> Fields {
    let data = |data: PsiData| {
        Fields::default().float(1, data.avg10).float(2, data.avg60).float(3, data.avg300).number(4, data.total)
    };
    Fields::default().optional(1, psi.some.map(data)).optional(2, psi.full.map(data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    /// A few fields at both ends, as containerd's generated code would read them.
    #[derive(Clone, PartialEq, Message)]
    struct Sample {
        #[prost(message, optional, tag = "4")]
        memory: Option<SampleMemory>,
        #[prost(message, optional, tag = "8")]
        events: Option<SampleEvents>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct SampleMemory {
        #[prost(uint64, tag = "1")]
        anon: u64,
        #[prost(uint64, tag = "32")]
        usage: u64,
        #[prost(uint64, tag = "33")]
        usage_limit: u64,
        #[prost(uint64, tag = "37")]
        swap_max_usage: u64,
    }

    #[derive(Clone, PartialEq, Message)]
    struct SampleEvents {
        #[prost(uint64, tag = "5")]
        oom_kill: u64,
    }

    #[test]
    fn each_counter_has_the_number_of_containerds_proto() {
        use killick_container::cgroup::MemoryEvents;
        let memory = V2Memory { anon: 11, usage: 12, usage_limit: u64::MAX, swap_max_usage: 13, ..V2Memory::default() };
        let metrics = V2Metrics {
            memory: Some(memory),
            memory_events: Some(MemoryEvents { oom_kill: 3, ..MemoryEvents::default() }),
            ..V2Metrics::default()
        };
        let any = any(&Metrics::V2(Box::new(metrics)));
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let sample = Sample::decode(any.value.as_slice()).unwrap();
        let memory = SampleMemory { anon: 11, usage: 12, usage_limit: u64::MAX, swap_max_usage: 13 };
        assert_eq!(sample, Sample { memory: Some(memory), events: Some(SampleEvents { oom_kill: 3 }) });
    }

    #[derive(Clone, PartialEq, Message)]
    struct SampleV1 {
        #[prost(message, optional, tag = "3")]
        cpu: Option<SampleCpu>,
        #[prost(message, optional, tag = "4")]
        memory: Option<SampleV1Memory>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct SampleCpu {
        #[prost(message, optional, tag = "1")]
        usage: Option<SampleUsage>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct SampleUsage {
        #[prost(uint64, tag = "1")]
        total: u64,
        #[prost(uint64, repeated, tag = "4")]
        per_cpu: Vec<u64>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct SampleV1Memory {
        #[prost(uint64, tag = "16")]
        hierarchical_memory_limit: u64,
        #[prost(uint64, tag = "32")]
        total_unevictable: u64,
        #[prost(message, optional, tag = "33")]
        usage: Option<SampleEntry>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct SampleEntry {
        #[prost(uint64, tag = "1")]
        limit: u64,
        #[prost(uint64, tag = "2")]
        usage: u64,
    }

    #[test]
    fn the_v1_shape_too() {
        use killick_container::cgroup::V1Cpu;
        let usage = MemoryEntry { limit: 100, usage: 7, max: 9, failcnt: 1 };
        let memory = V1Memory {
            hierarchical_memory_limit: 100,
            total_unevictable: 5,
            usage: Some(usage),
            ..V1Memory::default()
        };
        let cpu = V1Cpu { total: 6, per_cpu: vec![1, 5], ..V1Cpu::default() };
        let metrics = V1Metrics { cpu: Some(cpu), memory: Some(memory), ..V1Metrics::default() };
        let any = any(&Metrics::V1(Box::new(metrics)));
        let sample = SampleV1::decode(any.value.as_slice()).unwrap();
        let memory = SampleV1Memory {
            hierarchical_memory_limit: 100,
            total_unevictable: 5,
            usage: Some(SampleEntry { limit: 100, usage: 7 }),
        };
        let usage = SampleUsage { total: 6, per_cpu: vec![1, 5] };
        assert_eq!(sample, SampleV1 { cpu: Some(SampleCpu { usage: Some(usage) }), memory: Some(memory) });
    }
}

//! The pod's volumes: prepared before its containers, taken away with the pod. Disks are waited for in a worker.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use killick_pod::event::Event;
use killick_pod::spec::{DataKind, Pod};
use killick_pod_dir::objects::ObjectStore;
use killick_sys::spawn::worker;
use killick_volume::{Dirs, Prepared, Surroundings};

use crate::context::Context;
use crate::message::Message;
use crate::wait::finish;

const MOUNT_DEADLINE: Duration = Duration::from_secs(120);

/// Answers `MountVolumes`.
pub async fn mount(context: Rc<Context>, pod: Rc<Pod>) {
    let message = match prepare(&context, pod).await {
        Ok(prepared) => Message::VolumesReady { prepared },
        Err((volume, message)) => Message::Event(Event::VolumesFailed { volume, message }),
    };
    context.tell(message).await;
}

async fn prepare(context: &Context, pod: Rc<Pod>) -> Result<Vec<Prepared>, (String, String)> {
    let first = pod.spec.volumes.first().map(|volume| volume.name.clone()).unwrap_or_default();
    let of_all = |message: String| (first.clone(), message);
    let (roots, dirs) = (context.host.roots.clone(), Dirs { pod: context.host.dir.data_dir() });
    let node_memory_bytes = context.host.node.memory_bytes;
    let mut worker = worker(MOUNT_DEADLINE, move || {
        let objects = ObjectStore::new(&roots);
        let lookup = |kind: DataKind, namespace: &str, name: &str| objects.get(kind, namespace, name).ok().flatten();
        let around = Surroundings { dirs: &dirs, objects: &lookup, node_memory_bytes, now: SystemTime::now() };
        let mut prepared = Vec::new();
        for volume in &pod.spec.volumes {
            match killick_volume::prepare(&pod, volume, &around) {
                Ok(ready) => prepared.push(ready),
                Err(message) => return Ok(Err((volume.name.clone(), message))),
            }
        }
        Ok(Ok(prepared))
    })
    .map_err(|error| of_all(error.to_string()))?;
    finish::<Result<Vec<Prepared>, (String, String)>>(&mut worker).await.map_err(of_all)?
}

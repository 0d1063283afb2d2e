//! Init containers one after the other, sidecars among them (kubelet.md §2.3).

use super::slot::Run;
use super::{PodMachine, Teardown};
use crate::restart::restarts;

impl PodMachine {
    /// Starts what is due of the init containers; true once all have done their part. One that has, never gates
    /// again in this sandbox: a sidecar that dies later restarts on its own.
    pub(super) fn run_inits(&mut self) -> bool {
        for index in 0..self.inits() {
            if self.is_sidecar(index) {
                self.try_start(index);
            }
            if index < self.state.initialised {
                continue;
            }
            if !self.has_done_its_part(index) {
                self.run_init(index);
                return false;
            }
            self.state.initialised = index + 1;
        }
        true
    }

    fn run_init(&mut self, index: usize) {
        let slot = &self.state.slots[index];
        let failed = slot.run == Run::Idle && slot.ended.as_ref().is_some_and(|ended| ended.code != 0);
        if failed && !restarts(self.policy(index), 1) {
            self.state.teardown = Some(Teardown::Finish);
        } else if !self.is_sidecar(index) {
            self.try_start(index);
        }
    }

    /// Plain: exited with 0. Sidecar: runs, and its startup probe (if any) has succeeded.
    fn has_done_its_part(&self, index: usize) -> bool {
        let slot = &self.state.slots[index];
        if self.is_sidecar(index) {
            self.is_started(index)
        } else {
            slot.run == Run::Idle && slot.ended.as_ref().is_some_and(|ended| ended.code == 0)
        }
    }
}

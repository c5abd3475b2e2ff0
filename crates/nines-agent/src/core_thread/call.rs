//! A call of a fence device, on its way from the node to the thread that makes it.
//!
//! Decides: nothing.

use nines_model::{DeviceName, FenceDevice, NodeName, Switch, Time};

/// What a fence device is asked, as [`nines_core::action::Operation::Fence`] says it.
#[derive(Clone, Debug)]
pub struct FenceCall {
    /// Name of the device.
    pub device: DeviceName,
    /// How it is spoken to.
    pub config: FenceDevice,
    /// The machine.
    pub node: NodeName,
    /// What to do with it.
    pub switch: Switch,
    /// It is over by then, by the boot clock.
    pub until: Time,
}

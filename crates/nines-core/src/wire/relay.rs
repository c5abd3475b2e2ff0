//! Frames that a third node passes on.

/// A frame that goes through a third node, where its sender is not heard by its receiver.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Relay {
    /// Number of the node that the frame is of.
    #[prost(uint64, tag = "1")]
    pub from: u64,
    /// Number of the node that it is for.
    #[prost(uint64, tag = "2")]
    pub to: u64,
    /// The [`Frame`], encoded.
    #[prost(bytes = "vec", tag = "3")]
    pub frame: Vec<u8>,
}

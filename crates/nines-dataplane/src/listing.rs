//! What listings show, whichever back end carries it.

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use nines_model::{TableServer, TableService, Tally};

/// A service with its servers and all counts, ready to be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The service; its servers are beside it.
    pub service: TableService,
    /// What its scheduler is called there, if nines has one of that name or not.
    pub scheduler: String,
    /// What was counted of the service.
    pub tally: Tally,
    /// Each server with its counts and the clients that are remembered to be its.
    pub servers: Vec<(TableServer, Tally, u64)>,
}

/// A connection in the flow table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// IP protocol number.
    pub proto: u8,
    /// Name of its state.
    pub state: Cow<'static, str>,
    /// Until it ends if nothing comes.
    pub left: Duration,
    /// The client; port 0 where all of its connections are meant.
    pub client: SocketAddr,
    /// What it asked.
    pub virtual_service: SocketAddr,
    /// Address and port of the server that the connection goes to.
    pub server: SocketAddr,
}

//! How the network is at the moment.

use std::time::Duration;

/// What becomes of bytes on one of the two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    #[default]
    Pass,
    /// They arrive so much later.
    Late(Duration),
    /// They arrive when the weather has changed.
    Held,
    /// They never arrive, and the connection is reset when the weather changes.
    Swallowed,
}

/// Both ways, and whether connecting is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    pub requests: Flow,
    pub replies: Flow,
    pub refuses: bool,
}

impl Weather {
    /// Both ways alike.
    pub const fn both(flow: Flow) -> Self {
        Self { requests: flow, replies: flow, refuses: false }
    }

    /// Everything is accepted and swallowed.
    pub const fn blackhole() -> Self {
        Self::both(Flow::Swallowed)
    }

    /// A cut that TCP mends when it is over.
    pub const fn held() -> Self {
        Self::both(Flow::Held)
    }

    /// Late on each way.
    pub const fn late(each_way: Duration) -> Self {
        Self::both(Flow::Late(each_way))
    }

    /// Nothing reaches the server.
    pub const fn requests_lost() -> Self {
        Self { requests: Flow::Swallowed, replies: Flow::Pass, refuses: false }
    }

    /// Everything reaches the server, and nothing comes back.
    pub const fn replies_lost() -> Self {
        Self { requests: Flow::Pass, replies: Flow::Swallowed, refuses: false }
    }

    /// Nobody listens; connections that are open go on.
    pub const fn refusing() -> Self {
        Self { requests: Flow::Pass, replies: Flow::Pass, refuses: true }
    }
}

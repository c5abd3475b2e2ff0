//! The key of the flow table's places.
//!
//! Decides: that tables keep the key that they were made with, whichever process loads programs for
//! them, and that it is drawn where there is none yet.

use std::path::Path;

use aya::maps::{Array, Map, MapData};
use nines_abi::Settings;

use super::{Raw, map_error, wrong};
use crate::{Error, Result};

/// The settings in these pins; `None`: there are none yet.
fn settings(pins: &Path) -> Result<Option<Array<MapData, Raw<Settings>>>> {
    match MapData::from_pin(pins.join("SETTINGS")) {
        Ok(data) => Array::try_from(Map::Array(data)).map(Some).map_err(wrong),
        Err(_) => Ok(None),
    }
}

/// The key of the tables here, or a new one for those that are to be made.
pub(super) fn of(pins: &Path) -> Result<u64> {
    if let Some(known) = settings(pins)? {
        let key = known.get(&0, 0).map_err(map_error)?.0.flow_key;
        if key != 0 {
            return Ok(key);
        }
    }
    // Zero says that there is none.
    let drawn = getrandom::u64().map_err(|e| Error::new("cannot draw a key", e.to_string()))?;
    Ok(drawn | 1)
}

/// Notes the key in the tables that are now there, before a flow is.
pub(super) fn keep(pins: &Path, key: u64) -> Result<()> {
    let Some(mut known) = settings(pins)? else { return Ok(()) };
    let old = known.get(&0, 0).map_err(map_error)?.0;
    if old.flow_key == key {
        return Ok(());
    }
    known.set(0, Raw(Settings { flow_key: key, ..old }), 0).map_err(map_error)
}

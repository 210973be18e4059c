//! Small files that survive a power cut whole: the old text or the new one, never half of either.

use std::fs::File;
use std::io::{Result, Write};
use std::path::Path;

/// Writes `name` in `dir` by way of `name.new`, and returns when the disk has it.
pub fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    let new = dir.join(format!("{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    // Before the rename: else the new name could lead to an empty file.
    file.sync_all()?;
    std::fs::rename(new, dir.join(name))?;
    // The rename itself lies in the directory.
    File::open(dir)?.sync_all()
}

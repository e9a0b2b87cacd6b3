//! The core: objects, names, attributes and data by `(view, object, name bytes)`.
#![forbid(unsafe_code)]
pub mod codec;
pub mod ids;
pub mod keys;
pub mod record;

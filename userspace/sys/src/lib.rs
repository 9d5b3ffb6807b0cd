//! The one place with unsafe code in userspace: what no library wraps.

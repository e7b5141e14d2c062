//! The public plane: one small adapter file per build tool over one shared get, put, head and delete.

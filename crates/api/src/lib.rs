//! Types of the HTTP APIs (node and directory) and their clients.

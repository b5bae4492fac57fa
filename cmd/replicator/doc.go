// Command replicator keeps one replica of a group's log: it stores and ships the stream, as master or slave, for the KV
// node beside it. See internal/replicator for what it does and how.
package main

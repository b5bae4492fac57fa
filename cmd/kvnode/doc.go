// Command kvnode serves the Redis protocol from the committed log of a group: the KV node beside a replicator. See
// internal/kvnode for what it does and how.
package main

// Package trust says who is at the other end of a connection, by certificates: TLS for clients, mutual TLS between the
// processes of a cluster, and who may make which management call.
//
// # Identities
//
// A certificate of a process, or of an operator, carries one or more URIs as subject alternative names:
//
//	lockstep://CLUSTER/ROLE/NAME     lockstep://prod/replicator/n1   lockstep://prod/operator/alice
//
// ROLE is replicator, kvnode or confmaster for a process, and viewer, operator or admin for a person or a tool. That a
// certificate is signed by the cluster's CA is not enough: each side compares the identity with who the other one says
// that it is, and with what it may do. DNS names and addresses in a certificate are for Redis clients only.
//
// # What must hold
//
//   - A nil *Keeper stands for "no TLS": connections are plain, and every caller counts as admin.
//   - What a Keeper hands out refers to the newest files that could be read whole: a new connection uses a certificate
//     that was put in place meanwhile, open connections stay as they are. Files that do not fit together change nothing.
//   - A private key that others may read is refused.
//   - An error says what was refused, and what to do; on the other side the alert or the answer says it as well.
//
// It may not know: what any port is for, and anything of the core.
package trust

// Package acl decides which user may run which command on which keys and channels: Redis' access control lists, as
// pure values. It knows neither connections nor the commands themselves; a Table tells it their names and categories.
//
// # Users
//
// A User never changes once it is in a set of Users: With copies it, applies rules to the copy, and returns a new set.
// Whoever holds a set may therefore ask it from any goroutine while the next one is made. A rule is one word of ACL
// SETUSER. All rules of one call hold, or none.
//
// A user has one root selector and any number of further ones, and may do what any of them allows:
//
//	selector  which commands (a bit for each, and rules as they were given, for ACL LIST), key patterns with the
//	          right to read, write or both, and channel patterns
//
// Passwords are kept as the hex digits of their SHA-256; Seal hashes those of rules before the rules travel through a log.
//
// # Invariants
//
//   - The user "default" exists in every set.
//   - Users are sorted by name.
//   - Rules that Describe prints give, applied to a new user, an equal user.
package acl

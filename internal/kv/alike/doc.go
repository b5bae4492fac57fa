// Package alike compares a reply of the machine with one of redis-server 7.0: byte for byte, but without the order of
// elements where Redis promises none, without what is drawn by lot, up to the time that passed, and allowing for what
// Redis 7.2 answers otherwise than 7.0. It may know replies only, neither the machine nor the server.
package alike

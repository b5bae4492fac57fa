// Package locate finds the configuration masters that an operator names: as HOST:PORT, whose name is looked up at each dial, or as
// srv://_SERVICE._PROTOCOL.DOMAIN, an SRV record of DNS that lists hosts and ports of all of them and may change.
//
// It may not know: what is asked of those who are found.
package locate

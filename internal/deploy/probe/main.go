// Command probe asks a process of Lockstep on the same machine whether it is well: for health checks of containers, whose
// images hold no shell and no curl. It is built small, without net/http: one GET, and the status of the answer.
//
//	probe http://127.0.0.1:9123/readyz
//	probe tcp://127.0.0.1:9121            only whether somebody listens there: of a port with TLS
//
// Exit code: 0 answered 200, or listens; 1 not (what was answered is shown); 2 wrong usage.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	// patience bounds the whole question. Docker and Kubernetes have limits of their own above it.
	patience = 3 * time.Second
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 64 << 10
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run does what the arguments say and returns the exit code.
func run(arguments []string, stdout, stderr io.Writer) int {
	if len(arguments) != 1 {
		fmt.Fprintln(stderr, "Usage: probe http://HOST:PORT/PATH, or tcp://HOST:PORT")
		return 2
	}
	address, err := url.Parse(arguments[0])
	if err != nil || address.Scheme != "http" && address.Scheme != "tcp" || address.Port() == "" {
		fmt.Fprintf(stderr, "probe: %q: use http://HOST:PORT/PATH, or tcp://HOST:PORT\n", arguments[0])
		return 2
	}
	text, err := ask(address)
	if err != nil {
		fmt.Fprintf(stderr, "probe: %s: %v\n", address, err)
		return 1
	}
	fmt.Fprint(stdout, text)
	return 0
}

// ask returns the body of an answer 200; any other is an error. Of tcp it returns nothing once somebody takes the connection.
func ask(address *url.URL) (string, error) {
	conn, err := net.DialTimeout("tcp", address.Host, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if address.Scheme == "tcp" {
		return "", nil
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	// HTTP/1.0: the answer ends with the connection, in one piece.
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", address.RequestURI(), address.Host); err != nil {
		return "", err
	}
	content, err := io.ReadAll(bufio.NewReader(io.LimitReader(conn, maxAnswer)))
	if err != nil {
		return "", err
	}
	head, body, whole := strings.Cut(string(content), "\r\n\r\n")
	fields := strings.Fields(head)
	if !whole || len(fields) < 2 || !strings.HasPrefix(fields[0], "HTTP/1.") {
		return "", errors.New("the answer is no HTTP")
	}
	if fields[1] != "200" {
		return "", fmt.Errorf("answered %s: %s", fields[1], strings.TrimSpace(body))
	}
	return body, nil
}

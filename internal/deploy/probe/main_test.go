package main

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What could go wrong: a process that is not ready passes for healthy, or a healthy one does not. A real HTTP server answers.
func TestProbeTellsWellFromUnwell(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" && r.URL.RawQuery == "role=any" {
			w.Write([]byte("ok\n"))
			return
		}
		http.Error(w, "no KV node", http.StatusServiceUnavailable)
	}))
	defer server.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	mute, err := net.Listen("tcp", "127.0.0.1:0") // says something that is no HTTP
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	go func() {
		for {
			conn, err := mute.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 1024)) // or closing resets the connection
			conn.Write([]byte("-ERR\r\n"))
			conn.Close()
		}
	}()
	for _, c := range []struct {
		arguments []string
		code      int
		says      string
	}{
		{[]string{server.URL + "/readyz?role=any"}, 0, "ok\n"},
		{[]string{server.URL + "/readyz"}, 1, "answered 503: no KV node"},
		{[]string{"http://" + closed.Addr().String() + "/"}, 1, "refused"},
		{[]string{"http://" + mute.Addr().String() + "/"}, 1, "no HTTP"},
		{[]string{"tcp://" + mute.Addr().String()}, 0, ""},
		{[]string{"tcp://" + closed.Addr().String()}, 1, "refused"},
		{[]string{"https://h:1/"}, 2, "use http://"},
		{[]string{"http://h/"}, 2, "use http://"},
		{nil, 2, "Usage"},
	} {
		var out, problems bytes.Buffer
		code := run(c.arguments, &out, &problems)
		if text := out.String() + problems.String(); code != c.code || !strings.Contains(text, c.says) {
			t.Errorf("%v: exit code %d, said %q", c.arguments, code, text)
		}
	}
}

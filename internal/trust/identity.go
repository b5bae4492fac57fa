package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Role is what the holder of a certificate is for.
type Role string

// Roles of processes, and of people and tools: a Viewer may look, an Operator may also change what can be undone and read
// data (images), an Admin may do everything.
const (
	Replicator Role = "replicator"
	KVNode     Role = "kvnode"
	Confmaster Role = "confmaster"
	Viewer     Role = "viewer"
	Operator   Role = "operator"
	Admin      Role = "admin"
)

// Roles lists all roles.
func Roles() []Role { return []Role{Replicator, KVNode, Confmaster, Viewer, Operator, Admin} }

// people are the roles of people, from least to most.
var people = []Role{Viewer, Operator, Admin}

// Covers reports whether who has role r may do what needs role needed.
func (r Role) Covers(needed Role) bool {
	have, need := slices.Index(people, r), slices.Index(people, needed)
	return r == needed || have >= 0 && need >= 0 && have >= need
}

// scheme of the URIs that carry identities.
const scheme = "lockstep"

// Identity is who somebody is.
type Identity struct {
	Cluster string
	Role    Role
	Name    string // of the node, "c1" of configuration master 1, or of a person
}

func (i Identity) String() string {
	return scheme + "://" + i.Cluster + "/" + string(i.Role) + "/" + i.Name
}

// short names an identity within its cluster.
func (i Identity) short() string { return string(i.Role) + "/" + i.Name }

// URI is the identity as a certificate carries it.
func (i Identity) URI() *url.URL {
	return &url.URL{Scheme: scheme, Host: i.Cluster, Path: "/" + string(i.Role) + "/" + i.Name}
}

// Check reports what makes i unusable in a certificate.
func (i Identity) Check() error {
	var problems []error
	for _, part := range []struct{ what, text string }{{"cluster id", i.Cluster}, {"name", i.Name}} {
		if part.text == "" || len(part.text) > 128 || strings.Trim(part.text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") != "" ||
			strings.HasPrefix(part.text, ".") || strings.HasSuffix(part.text, ".") || strings.Contains(part.text, "..") {
			problems = append(problems, fmt.Errorf("%s %q cannot stand in a certificate: use 1 to 128 letters, digits, '-', '_' and single '.'", part.what, part.text))
		}
	}
	if !slices.Contains(Roles(), i.Role) {
		problems = append(problems, fmt.Errorf("there is no role %q: use one of %v", i.Role, Roles()))
	}
	return errors.Join(problems...)
}

// identitiesOf returns the identities of a certificate; URIs of others are passed over.
func identitiesOf(cert *x509.Certificate) []Identity {
	var list []Identity
	for _, uri := range cert.URIs {
		role, name, found := strings.Cut(strings.TrimPrefix(uri.Path, "/"), "/")
		id := Identity{Cluster: uri.Host, Role: Role(role), Name: name}
		if uri.Scheme == scheme && found && id.Check() == nil && id.URI().String() == uri.String() {
			list = append(list, id)
		}
	}
	return list
}

// Wanted says who has to be at the other end: somebody with the role in the own cluster, of that name unless it is empty. Without
// a role it is any process.
type Wanted struct {
	Role Role
	Name string
}

func (w Wanted) String() string {
	switch {
	case w.Role == "":
		return "a process"
	case w.Name == "":
		return "a " + string(w.Role)
	}
	return string(w.Role) + "/" + w.Name
}

// Peer is who is at the other end, as its certificate says. The zero value is nobody.
type Peer struct {
	identities []Identity // of the own cluster only, at least one
}

// As returns the identity with which the peer is w; found is false if it is not.
func (p Peer) As(w Wanted) (id Identity, found bool) {
	for _, id := range p.identities {
		if (id.Role == w.Role || w.Role == "" && !slices.Contains(people, id.Role)) && (w.Name == "" || id.Name == w.Name) {
			return id, true
		}
	}
	return Identity{}, false
}

func (p Peer) String() string {
	var names []string
	for _, id := range p.identities {
		names = append(names, id.short())
	}
	return strings.Join(names, ", ")
}

// peerIn reads who a verified certificate belongs to. Identities of other clusters than the given one are an error if there
// are no others.
func peerIn(cluster string, cert *x509.Certificate) (Peer, error) {
	var p Peer
	all := identitiesOf(cert)
	for _, id := range all {
		if id.Cluster == cluster {
			p.identities = append(p.identities, id)
		}
	}
	switch {
	case len(p.identities) > 0:
		return p, nil
	case len(all) > 0:
		return p, &RefusedError{fmt.Sprintf("its certificate is of cluster %q (%s), this is cluster %q: give it a certificate of this cluster", all[0].Cluster, all[0].short(), cluster)}
	}
	return p, &RefusedError{fmt.Sprintf("its certificate (%s) carries no identity of Lockstep: make one with `smrctl cert node` or `smrctl cert client`", cert.Subject)}
}

// check refuses a peer who is not w.
func (p Peer) check(w Wanted) error {
	if _, found := p.As(w); !found {
		return &RefusedError{fmt.Sprintf("its certificate is that of %s, and it should be %s: look whether addresses or certificates were mixed up", p, w)}
	}
	return nil
}

// RefusedError says why a certificate that is valid is not accepted.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// PeerOf returns who is at the other end of a connection whose handshake is done.
func (k *Keeper) PeerOf(state tls.ConnectionState) (Peer, error) {
	if len(state.PeerCertificates) == 0 {
		return Peer{}, &RefusedError{"it shows no certificate"}
	}
	return peerIn(k.Cluster(), state.PeerCertificates[0])
}

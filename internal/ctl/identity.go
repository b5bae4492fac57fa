package ctl

import (
	"context"
	"log/slog"
	"net"
	"os"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"lockstep/internal/admin"
	"lockstep/internal/local"
	"lockstep/internal/trust"
)

// identity is what a command shows of who it is.
type identity struct {
	files              trust.Files
	user, passwordFile string
}

// identityFlags are the flags of identity, which a context may fill in.
var identityFlags = []string{"tls-ca", "tls-cert", "tls-key", "user", "password-file"}

// addTLS adds the flags for a certificate.
func (i *identity) addTLS(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&i.files.CA, "tls-ca", "", "`file` with the CA of the cluster, where it speaks TLS")
	flags.StringVar(&i.files.Cert, "tls-cert", "", "`file` with the own certificate: `smrctl cert client` makes one")
	flags.StringVar(&i.files.Key, "tls-key", "", "`file` with the key of --tls-cert")
	for _, name := range []string{"tls-ca", "tls-cert", "tls-key"} {
		ofContext(command, name)
	}
}

// addLogin adds the flags for a command that also asks Redis ports.
func (i *identity) addLogin(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&i.user, "user", "", "`name` to log in with at Redis ports (default: the default user)")
	flags.StringVar(&i.passwordFile, "password-file", "", "`file` whose first line is the password for Redis ports; - is the standard input")
	for _, name := range []string{"user", "password-file"} {
		ofContext(command, name)
	}
}

// login reads certificate and password. A cluster on this machine has a certificate for its smrctl.
func (i *identity) login(cluster *local.Cluster) (login admin.Login, err error) {
	if err := i.files.Check("--tls-"); err != nil {
		return login, &misuse{err}
	}
	switch {
	case i.files.Given():
		if login.Keeper, err = trust.Open(i.files, slog.New(slog.DiscardHandler)); err != nil {
			return login, err
		}
	case cluster != nil:
		if login, err = cluster.Login(); err != nil {
			return login, err
		}
	}
	if i.passwordFile == "" {
		if i.user != "" {
			return login, usage("--user %s: give --password-file, too", i.user)
		}
		return login, nil
	}
	login.User = i.user
	login.Password, err = readPassword(os.Stdin, i.passwordFile)
	return login, err
}

// nodeConn opens a gRPC connection to a process of the cluster.
func nodeConn(login admin.Login, addr string, role trust.Role, node string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	options = append(options, grpc.WithTransportCredentials(login.Keeper.Credentials(trust.Wanted{Role: role, Name: node})))
	return grpc.NewClient("passthrough:///"+addr, options...)
}

// redisConn opens a connection to a Redis port and logs in.
func redisConn(ctx context.Context, login admin.Login, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, nodePatience)
	defer cancel()
	return login.DialRedis(ctx, addr)
}

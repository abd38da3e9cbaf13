package channelstate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// authority signs certificates for one test.
type authority struct {
	t           *testing.T
	folder      string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t, folder: t.TempDir()}
	a.certificate, a.key = a.issue(name, nil)
	return a
}

// issue writes <name>.pem and <name>-key.pem; without a parent it signs itself.
func (a *authority) issue(name string, parent *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	signer, signerKey := template, key
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	} else {
		signer, signerKey = parent.certificate, parent.key
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, signer, &key.PublicKey, signerKey)
	a.check(err)
	keyBytes, err := x509.MarshalPKCS8PrivateKey(key)
	a.check(err)
	a.check(os.WriteFile(a.file(name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), 0o600))
	a.check(os.WriteFile(a.file(name+"-key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyBytes}), 0o600))
	parsed, err := x509.ParseCertificate(certificate)
	a.check(err)
	return parsed, key
}

func (a *authority) file(name string) string { return filepath.Join(a.folder, name+".pem") }

func (a *authority) check(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// startMember is an etcd as an operator would run it, with a listener. It
// returns its URL and a client that needs no rights.
func startMember(t *testing.T, certificates *authority) (string, *clientv3.Client) {
	t.Helper()
	config := embed.NewConfig()
	config.Dir = t.TempDir()
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	config.ListenPeerUrls = nil
	scheme := "http"
	if certificates != nil {
		scheme = "https"
		certificates.issue("server", certificates)
		config.ClientTLSInfo.CertFile = certificates.file("server")
		config.ClientTLSInfo.KeyFile = certificates.file("server-key")
		config.ClientTLSInfo.TrustedCAFile = certificates.file("authority")
		config.ClientTLSInfo.ClientCertAuth = true
	}
	config.ListenClientUrls = []url.URL{{Scheme: scheme, Host: "127.0.0.1:0"}}
	config.AdvertiseClientUrls = config.ListenClientUrls
	server, err := embed.StartEtcd(config)
	if err != nil {
		t.Fatal(err)
	}
	<-server.Server.ReadyNotify()
	client := v3client.New(server.Server)
	t.Cleanup(func() {
		_ = client.Close() // it has no connection to close and says so
		server.Close()
	})
	return scheme + "://" + server.Clients[0].Addr().String(), client
}

// deadEndpoint is a URL at which nobody answers.
func deadEndpoint(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return "http://" + listener.Addr().String()
}

func dialOnce(t *testing.T, settings EtcdSettings, endpoints ...string) error {
	t.Helper()
	client, err := dialCluster(t.Context(), settings, endpoints, zap.NewNop())
	if err == nil {
		err = client.Close()
	}
	return err
}

func wantError(t *testing.T, err error, phrases ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", phrases)
		return
	}
	for _, phrase := range phrases {
		if !strings.Contains(err.Error(), phrase) {
			t.Errorf("%q lacks %q", err, phrase)
		}
	}
}

func TestClusterWithClientCertificates(t *testing.T) {
	ours, theirs := newAuthority(t, "authority"), newAuthority(t, "authority")
	ours.issue("client", ours)
	theirs.issue("client", theirs)
	endpoint, _ := startMember(t, ours)
	settings := DefaultSettings().Etcd

	settings.CAFile, settings.CertFile, settings.KeyFile = ours.file("authority"), ours.file("client"), ours.file("client-key")
	if err := dialOnce(t, settings, endpoint); err != nil {
		t.Errorf("with the right certificate: %v", err)
	}
	wantError(t, dialOnce(t, settings, strings.Replace(endpoint, "https", "http", 1)), "etcd.ca_file or etcd.cert_file is set", "https://")

	settings.CertFile, settings.KeyFile = "", ""
	wantError(t, dialOnce(t, settings, endpoint), "etcd.cert_file", "tls:")

	settings.CertFile, settings.KeyFile = theirs.file("client"), theirs.file("client-key")
	wantError(t, dialOnce(t, settings, endpoint), "etcd.cert_file", "tls:")

	settings.CAFile = theirs.file("authority")
	wantError(t, dialOnce(t, settings, endpoint), "etcd.ca_file", "x509:")

	settings.CAFile = ours.file("no-such-file")
	wantError(t, dialOnce(t, settings, endpoint), "etcd.ca_file", "no-such-file")
}

func TestClusterWithUserAndPassword(t *testing.T) {
	endpoint, admin := startMember(t, nil)
	settings := DefaultSettings().Etcd
	do := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	do(admin.RoleAdd(ctx, "books"))
	do(admin.RoleGrantPermission(ctx, "books", settings.KeyPrefix+"/", clientv3.GetPrefixRangeEnd(settings.KeyPrefix+"/"),
		clientv3.PermissionType(clientv3.PermReadWrite)))
	for user, role := range map[string]string{"root": "root", "mpegate": "books", "stranger": ""} {
		do(admin.UserAdd(ctx, user, "correct horse"))
		if role != "" {
			do(admin.UserGrantRole(ctx, user, role))
		}
	}
	do(admin.AuthEnable(ctx))

	wantError(t, dialOnce(t, settings, endpoint), "set etcd.username and etcd.password")

	settings.Username, settings.Password = "mpegate", "correct horse"
	if err := dialOnce(t, settings, endpoint); err != nil {
		t.Errorf("with the right password: %v", err)
	}
	settings.Username = "stranger"
	wantError(t, dialOnce(t, settings, endpoint), `etcd.username "stranger" needs a role`, `"/mpegate"`)

	settings.Password = "battery staple"
	err := dialOnce(t, settings, endpoint)
	wantError(t, err, `etcd.username "stranger" and etcd.password are not a user`)
	if strings.Contains(err.Error(), "battery") {
		t.Errorf("the error tells the password: %v", err)
	}
}

func TestClusterWithADeadMember(t *testing.T) {
	endpoint, admin := startMember(t, nil)
	if _, err := admin.Put(t.Context(), "key", "value"); err != nil {
		t.Fatal(err)
	}
	client, err := dialCluster(t.Context(), DefaultSettings().Etcd, []string{deadEndpoint(t), endpoint}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // the client takes members in turn
		if reply, err := client.Get(t.Context(), "key"); err != nil || len(reply.Kvs) != 1 {
			t.Errorf("got %v, %v", reply, err)
		}
		if _, err := client.Put(t.Context(), "other", "value"); err != nil {
			t.Error(err)
		}
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

func TestClusterThatIsAway(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // hangs up on three tries and then ends the wait
		defer cancel()
		for range 3 {
			if connection, err := listener.Accept(); err == nil {
				connection.Close()
			}
		}
	}()
	endpoint := "http://" + listener.Addr().String()
	_, err = dialCluster(ctx, DefaultSettings().Etcd, []string{endpoint}, zap.NewNop())
	wantError(t, err, "the etcd cluster at "+endpoint+" did not answer within", "code = Unavailable")
}

func TestClusterThatComesLater(t *testing.T) {
	settings := DefaultSettings().Etcd
	settings.DialTimeout, settings.RequestTimeout = 200*time.Millisecond, 200*time.Millisecond
	endpoint, _ := startMember(t, nil)
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front := "http://" + proxy.Addr().String()
	refused := make(chan struct{})
	go func() { // refuses the first connections and then passes them on
		defer proxy.Close()
		for range 3 {
			connection, err := proxy.Accept()
			if err != nil {
				return
			}
			connection.Close()
		}
		close(refused)
		for {
			connection, err := proxy.Accept()
			if err != nil {
				return
			}
			go relay(connection, strings.TrimPrefix(endpoint, "http://"))
		}
	}()
	t.Cleanup(func() { proxy.Close() })
	if err := dialOnce(t, settings, front); err != nil {
		t.Error(err)
	}
	select {
	case <-refused:
	default:
		t.Error("the cluster was never away")
	}
}

func relay(from net.Conn, address string) {
	defer from.Close()
	to, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer to.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = to.(*net.TCPConn).ReadFrom(from)
		to.Close()
	}()
	_, _ = from.(*net.TCPConn).ReadFrom(to)
	from.Close()
	<-done
}

func TestAnOutageDoesNotFillTheLog(t *testing.T) {
	core, logged := observer.New(zapcore.DebugLevel)
	logger := clientLogger(zap.New(core))
	for range 100 {
		logger.Warn("retrying of unary invoker failed")
		logger.Info("chatter")
	}
	if logged.Len() != 3 {
		t.Errorf("%d entries were logged, want 3", logged.Len())
	}
}

func TestEndpoints(t *testing.T) {
	tests := []struct {
		endpoints []string
		withTLS   bool
		phrase    string // empty: no error
	}{
		{[]string{"http://127.0.0.1:2379", "http://etcd-2:2379/"}, false, ""},
		{[]string{"https://etcd-1:2379", "https://[::1]:2379"}, true, ""},
		{[]string{"etcd-1:2379"}, false, ""},
		{nil, true, ""},
		{[]string{"http://etcd-1:2379", "https://etcd-2:2379"}, false, "mixes http and https"},
		{[]string{"http://etcd-1:2379"}, true, "etcd.ca_file or etcd.cert_file is set"},
		{[]string{"http://a:1", "etcd-1"}, false, "etcd.endpoints[1]"},
		{[]string{"ftp://etcd-1:2379"}, false, "http://host:port"},
		{[]string{""}, false, "etcd.endpoints[0]"},
		{[]string{"http://etcd-1:2379/v3"}, false, "no more"},
		{[]string{" http://etcd-1:2379"}, false, "is not a URL"},
		{[]string{"http://a:%zz"}, false, "is not a URL"},
		{make([]string, 65), false, "at most 64"},
	}
	for _, test := range tests {
		err := checkEndpoints("etcd.endpoints", test.endpoints, test.withTLS)
		if test.phrase == "" {
			if err != nil {
				t.Errorf("%q: %v", test.endpoints, err)
			}
			continue
		}
		wantError(t, err, test.phrase)
	}
	err := checkEndpoints("etcd.endpoints", []string{"http://user:secret@etcd-1:2379"}, false)
	wantError(t, err, "etcd.endpoints[0] holds a user")
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error tells the password: %v", err)
	}
}

func TestListenURL(t *testing.T) {
	tests := []struct{ setting, want, phrase string }{
		{"", "", ""},
		{"unix:", "unix:///data/client.sock", ""},
		{"unix:/run/etcd.sock", "unix:///run/etcd.sock", ""},
		{"unix:///run/etcd.sock", "unix:///run/etcd.sock", ""},
		{"http://127.0.0.1:2379", "http://127.0.0.1:2379", ""},
		{"http://[::1]:2379/", "http://[::1]:2379", ""},
		{"http://0.0.0.0:2379", "", "embedded.listen_client_url"},
		{"http://10.0.0.1:2379", "", "store etcd"},
		{"https://127.0.0.1:2379", "", "embedded.listen_client_url"},
		{"127.0.0.1:2379", "", "embedded.listen_client_url"},
		{"unix:/" + strings.Repeat("x", 103), "", "may have 103"},
	}
	for _, test := range tests {
		settings := EmbeddedSettings{DataDir: "/data", ListenClientURL: test.setting}
		got, err := settings.listenURL()
		if test.phrase != "" {
			wantError(t, err, test.phrase)
			continue
		}
		if err != nil || (got == nil) != (test.want == "") || (got != nil && got.String() != test.want) {
			t.Errorf("%q: got %v, %v, want %q", test.setting, got, err, test.want)
		}
	}
}

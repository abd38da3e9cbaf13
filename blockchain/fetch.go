package blockchain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"
)

const (
	fetchTries      = 3
	fetchFirstRetry = 250 * time.Millisecond
	maxRedirects    = 5
	maxHeaderBytes  = 64 << 10
	maxErrorBody    = 200  // bytes of a failed answer that are shown
	maxNotedCIDs    = 1024 // content ids remembered so that each is logged once
)

// Fetcher takes published files from IPFS and Filecoin and checks them against their CID.
type Fetcher struct {
	settings MetadataSettings
	logger   *zap.Logger
	client   *http.Client
	retry    time.Duration // pause before the second try
	flights  singleflight.Group

	mutex sync.Mutex
	noted map[string]bool // guarded by mutex
}

// fetched is a file and whether it was proved to be what its CID stands for.
type fetched struct {
	content []byte
	proved  bool
}

// NewFetcher returns a Fetcher with the limits of settings. Settings that are zero get their default.
func NewFetcher(settings MetadataSettings, logger *zap.Logger) *Fetcher {
	defaults := DefaultMetadataSettings()
	if settings.FetchTimeout <= 0 {
		settings.FetchTimeout = defaults.FetchTimeout
	}
	if settings.MaxSize <= 0 {
		settings.MaxSize = defaults.MaxSize
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxResponseHeaderBytes = maxHeaderBytes
	transport.MaxIdleConns = 4
	return &Fetcher{
		settings: settings,
		logger:   logger,
		client:   &http.Client{Transport: transport, CheckRedirect: checkRedirect},
		retry:    fetchFirstRetry,
		noted:    map[string]bool{},
	}
}

// Fetch returns the file of a metadata URI: ipfs://CID by Kubo's RPC, filecoin://CID by an HTTP gateway, a CID
// alone as ipfs. Tries are repeated within settings.FetchTimeout; the same URI is asked for once at a
// time. The bytes may be shared with other callers and must not be changed.
func (f *Fetcher) Fetch(ctx context.Context, uri string) ([]byte, error) {
	file, err := f.fetch(ctx, uri)
	return file.content, err
}

func (f *Fetcher) fetch(ctx context.Context, uri string) (fetched, error) {
	target, err := parseReference(uri)
	if err != nil {
		return fetched{}, err
	}
	// The flight has its own deadline: the caller that happened to start it may go away before the others.
	flight := f.flights.DoChan(target.String(), func() (any, error) {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.settings.FetchTimeout)
		defer cancel()
		return f.fetchWithRetries(bounded, target)
	})
	select {
	case <-ctx.Done():
		return fetched{}, fmt.Errorf("fetching %s: %w", target, ctx.Err())
	case result := <-flight:
		if result.Err != nil {
			return fetched{}, fmt.Errorf("fetching %s: %w", target, result.Err)
		}
		return result.Val.(fetched), nil
	}
}

func (f *Fetcher) fetchWithRetries(ctx context.Context, target reference) (fetched, error) {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval = f.retry
	var last error // says more than the deadline that ends the tries
	file, err := backoff.Retry(ctx, func() (fetched, error) {
		file, err := f.fetchOnce(ctx, target)
		if err != nil && ctx.Err() == nil {
			last = err
		}
		return file, err
	}, backoff.WithBackOff(pauses), backoff.WithMaxTries(fetchTries))
	switch {
	case err == nil:
		return file, nil
	case ctx.Err() != nil:
		late := fmt.Errorf("no complete answer within metadata.fetch_timeout (%s)", f.settings.FetchTimeout)
		if last != nil {
			late = fmt.Errorf("%w: %w", late, last)
		}
		return fetched{}, late
	default:
		var permanent *backoff.PermanentError
		if errors.As(err, &permanent) {
			err = permanent.Unwrap()
		}
		return fetched{}, err
	}
}

func (f *Fetcher) fetchOnce(ctx context.Context, target reference) (fetched, error) {
	request, err := f.request(ctx, target)
	if err != nil {
		return fetched{}, backoff.Permanent(err)
	}
	response, err := f.client.Do(request)
	if err != nil {
		return fetched{}, requestError(request, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fetched{}, statusError(request, response)
	}
	content, err := f.readBody(request, response)
	if err != nil {
		return fetched{}, err
	}
	proved, err := f.check(target, content)
	if err != nil {
		return fetched{}, backoff.Permanent(err)
	}
	return fetched{content: content, proved: proved}, nil
}

// request builds the question: Kubo's RPC answers only to POST, a gateway to GET.
func (f *Fetcher) request(ctx context.Context, target reference) (*http.Request, error) {
	method, text := http.MethodGet, f.settings.FilecoinGateway
	if target.scheme == schemeIPFS {
		method, text = http.MethodPost, f.settings.IPFSEndpoint
	}
	address, err := url.Parse(text)
	if err != nil || address.Host == "" {
		return nil, fmt.Errorf("the setting metadata.%s is not a URL", settingOf(target.scheme))
	}
	switch {
	case target.scheme == schemeIPFS:
		address = address.JoinPath("api", "v0", "cat")
		query := address.Query()
		query.Set("arg", target.cid)
		address.RawQuery = query.Encode()
	case address.RawQuery != "": // such as https://gateway.example/get?cid=
		address.RawQuery += target.cid
	default:
		address = address.JoinPath(target.cid)
	}
	request, err := http.NewRequestWithContext(ctx, method, address.String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("the setting metadata.%s gives no usable URL", settingOf(target.scheme))
	}
	request.Header.Set("User-Agent", "mpegate")
	return request, nil
}

func settingOf(scheme string) string {
	if scheme == schemeIPFS {
		return "ipfs_endpoint"
	}
	return "filecoin_gateway"
}

func (f *Fetcher) readBody(request *http.Request, response *http.Response) ([]byte, error) {
	limit := f.settings.MaxSize
	content, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if int64(len(content)) > limit {
		return nil, backoff.Permanent(fmt.Errorf("%s answers with more than the %d bytes of metadata.max_size", placeOf(request), limit))
	}
	if err != nil {
		return nil, requestError(request, err)
	}
	// Kubo has sent status 200 already when it fails in the middle of a file.
	if failure := response.Trailer.Get("X-Stream-Error"); failure != "" {
		return nil, fmt.Errorf("%s broke off: %s", placeOf(request), quoted(failure))
	}
	return content, nil
}

// check tells whether content is proved to be the target's.
func (f *Fetcher) check(target reference, content []byte) (proved bool, err error) {
	if !f.settings.CheckCID {
		return false, nil
	}
	err = checkCID(target.cid, content)
	if errors.Is(err, errCannotCheck) {
		if f.firstTime(target.cid) {
			f.logger.Warn("metadata is used as the source gave it: "+err.Error(),
				zap.Stringer("uri", target), zap.Int("bytes", len(content)))
		}
		return false, nil
	}
	return err == nil, err
}

func (f *Fetcher) firstTime(id string) bool {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if f.noted[id] || len(f.noted) >= maxNotedCIDs {
		return false
	}
	f.noted[id] = true
	return true
}

// checkRedirect follows a gateway to another host, but never away from https or to anything that is not HTTP.
func checkRedirect(next *http.Request, before []*http.Request) error {
	if len(before) > maxRedirects {
		return fmt.Errorf("more than %d redirections", maxRedirects)
	}
	from, to := before[len(before)-1].URL.Scheme, next.URL.Scheme
	if from != to && (from != "http" || to != "https") {
		return fmt.Errorf("a redirection from %s to %s is not followed", from, quoted(to))
	}
	return nil
}

// placeOf names the server without what may be secret in its URL.
func placeOf(request *http.Request) string {
	return request.URL.Scheme + "://" + request.URL.Host
}

// requestError drops the URL that net/http puts into its errors, and the random port of a broken connection,
// which would make each failure look like a new one.
func requestError(request *http.Request, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	var network *net.OpError
	if errors.As(err, &network) {
		err = network.Err
	}
	return fmt.Errorf("%s cannot be asked: %w", placeOf(request), err)
}

func statusError(request *http.Request, response *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(response.Body, maxErrorBody))
	said := ""
	if text := strings.TrimSpace(string(body)); err == nil && text != "" {
		said = ": " + quoted(text)
	}
	failure := fmt.Errorf("%s answers with status %d%s", placeOf(request), response.StatusCode, said)
	if response.StatusCode < http.StatusInternalServerError && response.StatusCode != http.StatusTooManyRequests {
		return backoff.Permanent(failure)
	}
	return failure
}

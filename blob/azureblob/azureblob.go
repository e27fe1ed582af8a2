// Package azureblob keeps objects in a container of Azure Blob Storage.
//
// An object is a block blob whose SHA-256 is kept in its metadata, as sha256. What is stored is gathered first, in memory
// or in a temporary file, because its checksum is sent before it; the service checks an MD5 of every request's body.
// Blocks of an upload that broke off are not to be seen, and the service forgets them after a week.
//
// A shared access signature binds neither headers nor bytes. What a PUT sends is not bound by it: its headers are to be sent,
// so that they are kept, but who holds the URL may send others, and any bytes; a checksum in Stat is then no more than what
// he has said. So what Sign returns is not Bound. A GET is answered with the type and disposition that are signed.
package azureblob

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/remoteblob"
)

// Options are the details of a Store. nil means all defaults.
type Options struct {
	// Prefix is what the names of all objects begin with, such as "dayfly/"; a missing slash at its end is added.
	Prefix string
	// Endpoint is the URL of the account's blobs. Default: https://ACCOUNT.blob.core.windows.net.
	Endpoint string
	// PublicEndpoint is the URL by which those reach the service who hold a signed request. Default: Endpoint.
	PublicEndpoint string
	// PartSize is how many bytes each block of a large object has; smaller objects are sent whole. An object has at most
	// 50,000 blocks. Default: 16 MiB; at least 1 MiB.
	PartSize int64
	// SpoolDir is where objects of more than 1 MiB are gathered before they are sent. Default: the system's place for
	// temporary files.
	SpoolDir string
	// Patience is how long a transfer may stand still before it is given up. Default: one minute.
	Patience time.Duration
}

// Store keeps objects in a container. It is a [blob.Store] and a [blob.Signer], safe for concurrent use, by several
// processes too.
type Store struct {
	*store
	name string
}

type store = remoteblob.Store

var (
	_ blob.Store  = (*Store)(nil)
	_ blob.Signer = (*Store)(nil)
)

// service is a container.
type service struct {
	container string
	client    *container.Client
	key       *container.SharedKeyCredential
	public    *url.URL // the container's for those who hold a signed request
	host      string   // to tell
}

// Open returns the Store in the container of the account, which must exist; key is one of the account's two access keys. It
// asks the service nothing: a container that is not there is noticed by the first use. fault.Invalid if the names, the key
// or the options cannot be right.
func Open(account, containerName, key string, o *Options) (*Store, error) {
	if o == nil {
		o = &Options{}
	}
	for what, name := range map[string]string{"an account": account, "a container": containerName} {
		if name == "" || strings.ContainsAny(name, "/?#.@:") {
			return nil, fmt.Errorf("azureblob: %w: %q is not the name of %s", fault.Invalid, name, what)
		}
	}
	// The library would put the key into its error.
	if _, err := base64.StdEncoding.DecodeString(key); err != nil || key == "" {
		return nil, fmt.Errorf("azureblob: %w: the access key of account %s is not in base64, as access keys are; copy it whole", fault.Invalid, account)
	}
	service, err := connect(account, containerName, key, o)
	if err != nil {
		return nil, err
	}
	common, err := remoteblob.New(service, remoteblob.Settings{
		Package: "azureblob", Host: service.host, Prefix: o.Prefix, Refuses: refuses, Explain: service.explain, SpoolDir: o.SpoolDir,
		PartSize: cmp.Or(o.PartSize, 16<<20), MinPart: 1 << 20, MaxParts: 50_000, Patience: o.Patience,
	})
	if err != nil {
		return nil, err
	}
	return &Store{common, "azure://" + account + "/" + containerName + "/" + common.Prefix() + " at " + service.host}, nil
}

// String tells where objects are kept, without credentials.
func (s *Store) String() string { return s.name }

// connect makes a client. Nothing is sent.
func connect(account, containerName, key string, o *Options) (*service, error) {
	endpoint := cmp.Or(o.Endpoint, "https://"+account+".blob.core.windows.net")
	address, err := containerURL(endpoint, containerName)
	if err != nil {
		return nil, err
	}
	public, err := containerURL(cmp.Or(o.PublicEndpoint, endpoint), containerName)
	if err != nil {
		return nil, err
	}
	credential, err := container.NewSharedKeyCredential(account, key)
	if err != nil {
		return nil, fmt.Errorf("azureblob: %w: the access key of account %s cannot be used", fault.Invalid, account)
	}
	client, err := container.NewClientWithSharedKeyCredential(address.String(), credential, &container.ClientOptions{ClientOptions: azcore.ClientOptions{
		Retry:     policy.RetryOptions{MaxRetries: 3, RetryDelay: 200 * time.Millisecond, MaxRetryDelay: time.Second},
		Telemetry: policy.TelemetryOptions{Disabled: true},
		// What is signed is for this service, and goes nowhere else.
		Transport: &http.Client{Transport: remoteblob.Transport(o.Patience), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}})
	if err != nil {
		return nil, fmt.Errorf("azureblob: %w: %w", fault.Invalid, err)
	}
	return &service{containerName, client, credential, public, address.Host}, nil
}

// containerURL returns the URL of the container at an endpoint.
func containerURL(endpoint, containerName string) (*url.URL, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" {
		return nil, fmt.Errorf("azureblob: %w: the endpoint is not the URL of an account, such as https://ACCOUNT.blob.core.windows.net", fault.Invalid)
	}
	return u.JoinPath(containerName), nil
}

// maxSegments is how many parts between slashes a blob's name may have.
const maxSegments = 254

// refuses says why there can be no blob of this name.
func refuses(name string) (reason string) {
	switch {
	case strings.Count(name, "/") >= maxSegments:
		return fmt.Sprintf("it has more than %d parts", maxSegments)
	case strings.ContainsFunc(name, unicode.IsControl):
		return "it holds a control character"
	case strings.Contains(name, "\\"):
		return "it holds a backslash, which Azure takes for a slash"
	case strings.Contains(name+"/", "./"):
		return "a part ends in a dot, which Azure takes away"
	}
	return ""
}

// explain makes a kind and a sentence of what the service has answered.
func (s *service) explain(err error) (fault.Kind, string) {
	answer, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		return "", ""
	}
	// The library's text has the URL and the whole answer, so only the code is told.
	message := fmt.Sprintf("%s says %.100q with status %d", s.host, answer.ErrorCode, answer.StatusCode)
	switch bloberror.Code(answer.ErrorCode) {
	case bloberror.BlobNotFound, bloberror.ResourceNotFound:
		return fault.NotFound, "there is no such object"
	case bloberror.ContainerNotFound, bloberror.ContainerBeingDeleted:
		return fault.Unavailable, fmt.Sprintf("there is no container %s at %s; make it, or correct its name", s.container, s.host)
	case bloberror.AuthenticationFailed, bloberror.InvalidAuthenticationInfo, bloberror.AuthorizationFailure:
		return fault.Unavailable, message + "; the access key is wrong or has been replaced, the clock of this computer is wrong, or the account's network rules forbid it"
	case bloberror.AuthorizationPermissionMismatch, bloberror.InsufficientAccountPermissions, bloberror.AccountIsDisabled:
		return fault.Unavailable, message + "; the account does not permit this"
	case bloberror.RequestBodyTooLarge:
		return fault.TooLarge, message
	case bloberror.InvalidResourceName, bloberror.OutOfRangeInput:
		return fault.Invalid, message
	}
	if answer.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return fault.Invalid, message
	}
	return fault.Unavailable, message
}

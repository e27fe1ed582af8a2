package api

import (
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
)

// describePlain adds the routes to the description that are not huma's: those of files, whose bytes go through as they
// are, and those that describe and measure the server. The agents' routes are not part of it; package wire describes
// them, because agents come with the server.
func describePlain(spec *huma.OpenAPI, metrics bool) {
	spec.AddOperation(describeUpload(spec))
	spec.AddOperation(describeDownload(spec))
	spec.AddOperation(describeHead(spec))
	page := func(path, id, summary, contentType string) *huma.Operation {
		op := &huma.Operation{Method: http.MethodGet, Path: path, OperationID: id, Summary: summary}
		op.Responses = withDefault(spec, map[string]*huma.Response{"200": {Description: "OK", Content: bytesOf(contentType)}})
		return op
	}
	spec.AddOperation(page("/openapi.json", "describe-api-as-json", "This description as JSON", "application/openapi+json"))
	spec.AddOperation(page("/openapi.yaml", "describe-api-as-yaml", "This description as YAML", "application/openapi+yaml"))
	spec.AddOperation(page("/docs", "describe-api-as-page", "This description as a page for people", "text/html"))
	shell := page("/v1/jobs/{id}/shell", "enter-job", "Run a command in the machine of a job, and talk to it", "application/json")
	shell.Description = "A WebSocket. Text messages are JSON: the client begins with {\"open\": {\"command\": [...], \"terminal\": true, " +
		"\"window\": {\"columns\": 80, \"rows\": 24}}}, and is answered with {\"started\": ...} and at the end {\"exit\": ...} or {\"problem\": ...}. " +
		"Binary messages are what goes through the command's streams, behind a byte: 0 input, 1 output, 2 error output."
	shell.Parameters = []*huma.Param{
		{In: "path", Name: "id", Required: true, Description: "The job, which runs or whose machine is kept.", Schema: textSchema()},
		parameter("query", "for", "How long the session may last: up to 24h. Default: 1h.", textSchema()),
	}
	shell.Responses = withDefault(spec, map[string]*huma.Response{
		"101": {Description: "The connection is a WebSocket now."},
		"404": refusal(spec, "There is no such job."), "409": refusal(spec, "It has no machine that can be entered."),
	})
	shell.Security, shell.Extensions = []map[string][]string{{"token": {}}, {}}, map[string]any{"x-scope": scopeShell}
	spec.AddOperation(shell)
	if metrics {
		op := page("/metrics", "show-metrics", "The server's measurements, for Prometheus", "text/plain")
		op.Security, op.Extensions = []map[string][]string{{"token": {}}, {}}, map[string]any{"x-scope": scopeRead}
		spec.AddOperation(op)
	}
}

// blobPath is the path of signed URLs as the description can say it: its variables cannot hold slashes there, which
// this one does.
const blobPath = "/v1/blobs/{key}"

const signedURL = "The URL carries the permission: no token is needed, and every change to it makes it invalid. "

func describeUpload(spec *huma.OpenAPI) *huma.Operation {
	return &huma.Operation{
		Method: http.MethodPut, Path: blobPath, OperationID: "upload-file", Summary: "Upload an input to the URL that its job shows",
		Description: signedURL + "The body is the file as it is. What was uploaded last before the job is started is what counts; an upload " +
			"that breaks off leaves what was there. A pause of a minute ends it.",
		Parameters: append(signedParameters(),
			parameter("query", "limit", "The most bytes that are taken.", integerSchema()),
			parameter("query", "type", "The content type that the upload must have.", textSchema()),
		),
		RequestBody: &huma.RequestBody{
			Required: true, Content: bytesOf("*/*"),
			Description: "The file. Its Content-Type is kept with it, and must be the declared one if the job declares one.",
		},
		Responses: withDefault(spec, map[string]*huma.Response{
			"201": {
				Description: "It is stored.",
				Headers:     map[string]*huma.Param{"ETag": answerHeader("The file's SHA-256 in quotes.")},
				Content: map[string]*huma.MediaType{
					"application/json": {Schema: spec.Components.Schemas.Schema(reflect.TypeFor[storedFile](), true, "")},
				},
			},
			"400": refusal(spec, "The upload broke off, or is a part of the file only."),
			"403": refusal(spec, "The URL is not one of this server's for this method, or has expired."),
			"404": refusal(spec, "There is no such job any more."),
			"408": refusal(spec, "Nothing came for a minute."),
			"409": refusal(spec, "The job has been started, or the attempt is over: its files cannot be changed."),
			"413": refusal(spec, "The file is larger than the URL permits."),
			"415": refusal(spec, "The content type is not the declared one, or the body is encoded."),
			"422": refusal(spec, "The content type is not one, or the body is not as long as it was said to be."),
			"503": refusal(spec, "Too many files are being uploaded; try again in a moment."),
			"507": refusal(spec, "The server's disk is full."),
		}),
	}
}

func describeDownload(spec *huma.OpenAPI) *huma.Operation {
	file := fileHeaders()
	file["Content-Length"] = answerHeader("The bytes of this answer.")
	part := fileHeaders()
	part["Content-Length"] = file["Content-Length"]
	part["Content-Range"] = answerHeader("Which bytes of the file these are, such as bytes 0-99/1234.")
	return &huma.Operation{
		Method: http.MethodGet, Path: blobPath, OperationID: "download-file", Summary: "Download an artifact from the URL that its job shows",
		Description: signedURL + "A download that broke off goes on with Range and If-Range.",
		Parameters:  append(downloadParameters(), rangeParameters()...),
		Responses: withDefault(spec, map[string]*huma.Response{
			"200": {Description: "The file.", Headers: file, Content: bytesOf("*/*")},
			"206": {Description: "The part of the file that was asked for.", Headers: part, Content: bytesOf("*/*")},
			"304": {Description: "The file is still the one with that ETag.", Headers: fileHeaders()},
			"403": refusal(spec, "The URL is not one of this server's for this method, or has expired."),
			"404": refusal(spec, "The file is not there: it was never stored, or has been deleted."),
			"416": rangeRefusal(spec),
		}),
	}
}

// describeHead describes what is a GET without its body, for any web server's client.
func describeHead(spec *huma.OpenAPI) *huma.Operation {
	op := describeDownload(spec)
	op.Method, op.OperationID, op.Summary = http.MethodHead, "describe-file", "See size and checksum of a file without its bytes"
	op.Description = signedURL + "The URL is that of the download."
	for _, response := range op.Responses {
		response.Content = nil
	}
	return op
}

// signedParameters are what every signed URL has.
func signedParameters() []*huma.Param {
	key := parameter("path", "key", "The file's place. It may hold slashes; use the URL as it was given.", textSchema())
	expires := parameter("query", "expires", "Until when the URL is good, in Unix seconds.", integerSchema())
	signature := parameter("query", "signature", "What proves that the server has made the URL.", textSchema())
	key.Required, expires.Required, signature.Required = true, true, true
	return []*huma.Param{key, expires, signature}
}

func downloadParameters() []*huma.Param {
	return append(signedParameters(), parameter("query", "name", "The name under which a browser saves the file.", textSchema()))
}

func rangeParameters() []*huma.Param {
	return []*huma.Param{
		parameter("header", "Range", "One range of bytes, such as bytes=100- or bytes=-100. Several in one are answered with the whole file.", textSchema()),
		parameter("header", "If-Range", "An ETag: the whole file comes if it is no longer the one with this.", textSchema()),
		parameter("header", "If-None-Match", "ETags: the file does not come if it is one with one of these.", textSchema()),
	}
}

func fileHeaders() map[string]*huma.Param {
	return map[string]*huma.Param{
		"ETag":                answerHeader("The file's SHA-256 in quotes."),
		"Last-Modified":       answerHeader("When it was stored."),
		"Accept-Ranges":       answerHeader("Always bytes."),
		"Content-Disposition": answerHeader("Always an attachment, so that a browser saves the file and does not show it."),
		"Cache-Control":       answerHeader("Always private, no-transform."),
	}
}

// withDefault adds what may be answered to anything.
func withDefault(spec *huma.OpenAPI, known map[string]*huma.Response) map[string]*huma.Response {
	known["default"] = refusal(spec, "Error")
	return known
}

func refusal(spec *huma.OpenAPI, text string) *huma.Response {
	return &huma.Response{
		Description: text,
		Content:     map[string]*huma.MediaType{problemType: {Schema: spec.Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "")}},
	}
}

func rangeRefusal(spec *huma.OpenAPI) *huma.Response {
	response := refusal(spec, "The range begins behind the end of the file.")
	response.Headers = map[string]*huma.Param{"Content-Range": answerHeader("How long the file is, such as bytes */1234.")}
	return response
}

// bytesOf describes bytes of a type of which nothing more is known.
func bytesOf(contentType string) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{contentType: {Schema: &huma.Schema{}}}
}

func parameter(in, name, text string, schema *huma.Schema) *huma.Param {
	return &huma.Param{In: in, Name: name, Description: text, Schema: schema}
}

func answerHeader(text string) *huma.Param {
	return &huma.Param{Description: text, Schema: textSchema()}
}

func textSchema() *huma.Schema { return &huma.Schema{Type: "string"} }

func integerSchema() *huma.Schema { return &huma.Schema{Type: "integer", Format: "int64"} }

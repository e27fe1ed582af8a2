// Package api is Dayfly's HTTP interface: the one for clients under /v1, the one for agents under /agent/v1, and the
// signed URLs by which files go in and out.
//
//	request
//	   |   recover, measure                 every request leaves one measurement and, at worst, one 500
//	   |   host, origin                     what a browser could be tricked into is refused
//	   v
//	router ------ no such route ----------> 404 or 405, as problem details
//	   |   access                           who may use the route: one table, in access.go
//	   v
//	handler
//	   |-- /v1/jobs, /v1/machines ...       huma: parameters and the description in OpenAPI come from Go types
//	   |-- bodies                           package strict: what two readers could read differently is refused
//	   |-- logs, events                     streams: server-sent events that resume where they broke off
//	   |-- /v1/blobs/...                    package ticket: the URL is the authority
//	   '-- /agent/v1/...                    plain handlers; package wire describes them
//	   v
//	problem ----- every error ------------> one form (RFC 9457), whose "code" is a kind of package fault
//
// The package decides nothing about jobs. It asks the engine, through the small interfaces in api.go, and shows what
// it answers; view.go is the only place that knows both how a job is kept and how it is shown.
package api

// Package pod reads pod manifests and holds the rules for them: parsing with
// positions, defaults, validation, and which fields podrun can honour.
//
// A pod is a k8s.io/api/core/v1.Pod throughout. Every complaint about a
// manifest carries file, line, column and field. The package has no state,
// touches nothing outside its arguments, and is safe for concurrent use.
//
//	bytes --Parse--> Objects (pods with positions)
//	pod --Default--> pod --Validate, Unsupported--> complaints --Locate--> complaints with positions
package pod

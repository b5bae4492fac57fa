// Package web is the page that every configuration master shows to browsers, on the port of its metrics: topology, decisions, drills,
// settings with their drift, and the log of each replica. All of it is embedded; nothing is loaded from elsewhere.
//
//	GET  /                     the page; /web/page.js, /web/page.css, /web/icon.svg belong to it
//	GET  /web/state            groups, replicas and configuration masters, as they are now
//	GET  /web/stream           the same every second, and events as they happen (Server-Sent Events)
//	GET  /web/history?group=   decisions with their evidence, the newest last
//	GET  /web/settings?group=  what is wanted, what every node has, the differences, and who changed what
//	GET  /web/drills           reports of drills; /web/drills/ID is one of them as smrctl wrote it
//	GET  /web/drill-plan?drill=&group=&node=&hold=   what a drill would do now, what speaks against it, and the command that runs it
//	GET  /web/drill-now?group=   which drill has the processes of a group, what it holds, and what it has said so far
//	GET  /web/records?group=&node=&from=|before=&count=   frames of a replica's log
//	GET  /web/session          who is logged in, and why nobody can be
//	POST /web/login            {"code": …} of `smrctl web login`, or {"certificate": true}
//	POST /web/logout, /web/switchover, /web/settings
//	POST /web/change           policies, drain, take back, give up: with the version that the browser saw, or as a dry run
//	POST /web/drill-abort      {"group": …, "drill": ID}
//
// Whoever reaches the port may look, as a viewer; a log-in takes over the identity and the roles of a certificate, and every change
// goes the way of a management call: roles, audit, the leader. Without certificates nobody can tell who somebody is, so nothing can
// be changed here. What clients wrote (bodies of the log) needs a log-in, too.
//
// The page runs no drill itself: a drill needs clients that write beside the cluster with passwords that no configuration master has, it
// kills configuration masters too, and on one machine somebody must start what it has killed. It shows whether the group would survive it
// and the command, follows it, and can abort it.
//
// Invariants: a handler never answers what is not bounded; what comes from outside reaches the page as JSON and is shown as text,
// never as markup; no answer to another origin's request changes anything; the context of each call to the configuration master
// carries a caller with proved roles (never the zero Caller, who may do everything).
//
// It may not know: raft, cores, how a change is carried out.
package web

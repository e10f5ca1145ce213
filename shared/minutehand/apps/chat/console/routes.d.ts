// Written by `python -m infra.release.console_types` from the OpenAPI document; do not edit.
// This file has no counterpart at run time.

/** Any JSON, such as a payload or a result. */
export type Json = any;

export interface Routes {
  "POST /api/async-cancel": { query: {
  /** For EventSource alone. */
  access_token?: string | null;
}; body: CancelRequest; answer: { [name: string]: Json } };
  "GET /api/async-events": { query: {
  sessionId?: string | null;
  /** An event's id, or `now`. */
  cursor?: string | null;
  /** For EventSource alone. */
  access_token?: string | null;
}; body: undefined; answer: Json };
  "GET /api/async-messages": { query: {
  sessionId?: string | null;
  workId?: string | null;
  limit?: number;
  /** For EventSource alone. */
  access_token?: string | null;
}; body: undefined; answer: { [name: string]: Json } };
  "POST /api/async-messages": { query: {
  /** For EventSource alone. */
  access_token?: string | null;
}; body: MessageRequest; answer: { [name: string]: Json } };
  "GET /api/async-status": { query: {
  sessionId?: string | null;
  /** For EventSource alone. */
  access_token?: string | null;
}; body: undefined; answer: { [name: string]: Json } };
  "POST /api/chat": { query: {
  /** For EventSource alone. */
  access_token?: string | null;
}; body: ChatRequest; answer: Json };
  "GET /api/chat/artefacts/{token}": { query: undefined; body: undefined; answer: Json };
  "GET /api/chat/conversations": { query: {
  workspace_id?: string | null;
  /** The `next` of the page before. */
  after?: string | null;
  limit?: number;
  /** For EventSource alone. */
  access_token?: string | null;
  /** A guest session's id, for its holder: it replaces a token. */
  session_id?: string | null;
}; body: undefined; answer: ConversationPage };
  "POST /api/chat/conversations": { query: {
  /** For EventSource alone. */
  access_token?: string | null;
  /** A guest session's id, for its holder: it replaces a token. */
  session_id?: string | null;
}; body: NewConversation; answer: Conversation };
  "DELETE /api/chat/conversations/{conversation_id}": { query: {
  /** For EventSource alone. */
  access_token?: string | null;
  /** A guest session's id, for its holder: it replaces a token. */
  session_id?: string | null;
}; body: undefined; answer: null };
  "GET /api/chat/conversations/{conversation_id}": { query: {
  /** For EventSource alone. */
  access_token?: string | null;
  /** A guest session's id, for its holder: it replaces a token. */
  session_id?: string | null;
}; body: undefined; answer: Conversation };
  "PATCH /api/chat/conversations/{conversation_id}": { query: {
  /** For EventSource alone. */
  access_token?: string | null;
  /** A guest session's id, for its holder: it replaces a token. */
  session_id?: string | null;
}; body: NewTitle; answer: Conversation };
  "GET /api/chat/conversations/{conversation_id}/messages": { query: {
  /** Messages before this `seq`. */
  before?: number | null;
  limit?: number;
  /** For EventSource alone. */
  access_token?: string | null;
  /** A guest session's id, for its holder: it replaces a token. */
  session_id?: string | null;
}; body: undefined; answer: MessagePage };
  "POST /api/chat/conversations/{conversation_id}/messages": { query: {
  /** For EventSource alone. */
  access_token?: string | null;
  /** A guest session's id, for its holder: it replaces a token. */
  session_id?: string | null;
}; body: Message; answer: Sent };
  "DELETE /api/chat/conversations/{conversation_id}/share": { query: undefined; body: undefined; answer: null };
  "POST /api/chat/conversations/{conversation_id}/share": { query: undefined; body: Sharing; answer: Shared };
  "GET /api/chat/conversations/{conversation_id}/stream": { query: {
  cursor?: string | null;
  /** For EventSource alone. */
  access_token?: string | null;
  /** A guest session's id, for its holder: it replaces a token. */
  session_id?: string | null;
}; body: undefined; answer: FeedPage };
  "POST /api/chat/conversations/{conversation_id}/work/{work_item_id}/answer": { query: {
  /** For EventSource alone. */
  access_token?: string | null;
  /** A guest session's id, for its holder: it replaces a token. */
  session_id?: string | null;
}; body: minutehand__apps__chat__routes__Answer; answer: Conversation };
  "POST /api/chat/conversations/{conversation_id}/work/{work_item_id}/cancel": { query: {
  /** For EventSource alone. */
  access_token?: string | null;
  /** A guest session's id, for its holder: it replaces a token. */
  session_id?: string | null;
}; body: undefined; answer: Conversation };
  "POST /api/chat/conversations/{conversation_id}/work/{work_item_id}/retry": { query: {
  /** For EventSource alone. */
  access_token?: string | null;
  /** A guest session's id, for its holder: it replaces a token. */
  session_id?: string | null;
}; body: undefined; answer: Conversation };
}

export type Attachment = {
  title: string;
  characters: number;
};

export type CancelRequest = {
  workId?: string | null;
  sessionId?: string | null;
  cancelAll?: boolean;
};

export type ChatRequest = {
  messages: Turn[];
  workspace_id?: string | null;
  /** Texts to work on. */
  documents?: Document[];
  /** `reply` answers directly, `work` never does. */
  mode?: "auto" | "reply" | "work";
  /** Whether work may ask questions. */
  ask?: boolean;
  /** Then a question's default is taken. */
  ask_seconds?: number | null;
  seed?: number;
};

export type Conversation = {
  id: string;
  /** Its events: /api/sessions/{session_id}/events. */
  session_id: string;
  title: string | null;
  live: number;
  waiting: number;
  done: number;
  failed: number;
  cancelled: number;
  answer_wanted: boolean;
  replying: boolean;
  messages: number;
  created_by: string | null;
  created_at: string;
  last_message_at: string;
  last_activity_at: string;
  /** null for a guest. */
  workspace_id: string | null;
  /** Until when the holder of its guest session reaches it; null: no one. */
  shared_until: string | null;
  work: WorkItem[];
  replies: Reply[];
};

export type ConversationLine = {
  id: string;
  /** Its events: /api/sessions/{session_id}/events. */
  session_id: string;
  title: string | null;
  live: number;
  waiting: number;
  done: number;
  failed: number;
  cancelled: number;
  answer_wanted: boolean;
  replying: boolean;
  messages: number;
  created_by: string | null;
  created_at: string;
  last_message_at: string;
  last_activity_at: string;
};

export type ConversationPage = {
  conversations: ConversationLine[];
  /** Pass as `after` for more; null at the end. */
  next: string | null;
};

export type Document = {
  title: string;
  text: string;
};

export type FeedPage = {
  events: JobEvent[];
  cursor: string;
  more: boolean;
  reset: boolean;
};

export type JobEvent = {
  job_id: string;
  seq: number;
  type: string;
  data: Json;
  created_at: string;
};

export type Message = {
  text: string;
  /** Your own id for it: sent again it finds the first, with 200. */
  client_id?: string | null;
  /** Texts to work on; later messages may refer to them. */
  documents?: Document[];
  /** `reply`: answer at once; `work`: in the background. */
  mode?: "auto" | "reply" | "work";
  /** Whether background work may ask back. */
  ask?: boolean;
  /** Then it continues without an answer. */
  ask_seconds?: number;
  seed?: number;
};

export type MessagePage = {
  messages: ShownMessage[];
  /** Pass as `before` for older ones; null at the first. */
  before: number | null;
};

export type MessageRequest = {
  messageId?: string | null;
  sessionId?: string | null;
  workId?: string | null;
  content: string;
};

export type NewConversation = {
  workspace_id?: string | null;
  /** The first message's words when null. */
  title?: string | null;
};

export type NewTitle = {
  title: string;
};

export type Reply = {
  job_id: string;
  message_id: string;
  status: "pending" | "processing" | "waiting" | "completed" | "failed" | "cancelled";
  /** While it is written: `stage` is `text:<n>`, `message` its text from there on. */
  progress: { [name: string]: Json } | null;
  error_message: string | null;
  next_retry_at: string | null;
  cancel_requested_at: string | null;
  last_seq: number;
};

export type Request = {
  mode: "auto" | "reply" | "work";
  ask: boolean;
  ask_seconds: number;
  seed: number;
};

export type Sent = {
  message: ShownMessage;
  job_id: string | null;
};

export type Shared = {
  session_id: string;
  expires_at: string;
};

export type Sharing = {
  ttl_seconds?: number;
};

export type ShownMessage = {
  id: string;
  /** 1, 2, 3 … without gaps in its conversation. */
  seq: number;
  author: "user" | "assistant";
  kind: "message" | "answer" | "reply" | "plan" | "result";
  text: string;
  documents: Attachment[];
  request: Request | null;
  data: { [name: string]: Json } | null;
  model: string | null;
  offline: boolean;
  input_tokens: number;
  output_tokens: number;
  cost_usd: number;
  client_id: string | null;
  /** The job that answers it, that asked, or that wrote it, by kind. */
  job_id: string | null;
  /** null for a guest who reads. */
  created_by: string | null;
  /** Whether a guest session's holder sent it. */
  by_guest: boolean;
  created_at: string;
};

export type Turn = {
  role: "user" | "assistant" | "system";
  content: string;
};

export type WorkItem = {
  /** Its job's id. */
  work_item_id: string;
  message_id: string;
  title: string;
  kind: "research" | "summarise" | "compare" | "draft" | "build";
  status: "pending" | "processing" | "waiting" | "completed" | "failed" | "cancelled";
  progress: { [name: string]: Json } | null;
  question_name: string | null;
  question: string | null;
  question_options: string[] | null;
  question_default: string | null;
  question_expires_at: string | null;
  result_message_id: string | null;
  error_message: string | null;
  attempts: number | null;
  max_attempts: number | null;
  next_retry_at: string | null;
  cancel_requested_at: string | null;
  last_seq: number | null;
  created_at: string;
  started_at: string | null;
  updated_at: string;
  completed_at: string | null;
};

export type minutehand__apps__chat__routes__Answer = {
  answer: string;
  /** The question's name: 409 when it asks another one by now. */
  name?: string | null;
};

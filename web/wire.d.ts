// Objects of docs/protocol.md, "Conversations". Types alone: the server does not hand this file out.

export interface WireConversation {
  id: string;
  participantids: string[];
  participants: { userid: string; username: string }[];
  lastmessageid: string;
  lastreportid: string;
  firstmessageid?: string;
  lastaccess: number;
  secret: string;
  instance: string;
  hiddenby: string[];
  properties: { userid: string; ismuted: boolean; isfavorite: boolean; hideid: string; listitembackgroundcolor: string; unread?: number }[];
}

export interface WireMessage {
  ID: string;
  Type: string;
  Created: string;
  ValidUntil: string;
  Data: string;
  UserID: string;
}

export interface WireReport {
  ID: string;
  Type: 'delivered' | 'viewed';
  MessageID: string;
  UserID: string;
}
